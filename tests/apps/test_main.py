"""The ``mobilevision`` command."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from mobilevision.apps import commands
from mobilevision.apps.main import COMMANDS, TRAINING, main

HEAVY = ("torch", "torchvision", "lightning", "cv2", "matplotlib", "requests", "albumentations")
GROUPS = ["", "data", "data download", "evaluate", "gallery", "weights"]
Capture = pytest.CaptureFixture[str]


def ended(words: list[str]) -> int:
    """Run a command line that ends by itself; the exit status."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("path", [*GROUPS, *COMMANDS])
def test_help__every_command__fits_80_columns_and_has_examples(
    path: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert ended([*path.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: {' '.join(['mobilevision', *path.split()])} ")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "examples:\n  mobilevision " in out
    assert "<class" not in out


@pytest.mark.parametrize("path", COMMANDS)
def test_help__every_command__each_line_of_the_examples_is_accepted(path: str) -> None:
    from jsonargparse import ArgumentParser

    command = COMMANDS[path]
    parser = ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    for line in command.examples:
        words = shlex.split(line)
        assert words[: 1 + len(path.split())] == ["mobilevision", *path.split()]
        assert parser.parse_args(words[1 + len(path.split()) :])


@pytest.mark.parametrize("path", COMMANDS)
def test_help__every_option__has_a_sentence(path: str) -> None:
    from jsonargparse import ArgumentParser

    command = COMMANDS[path]
    parser = ArgumentParser()
    command.add_arguments(parser)
    assert command.summary.endswith(".")
    helps = [action.help for action in parser._actions if action.dest != "help"]
    assert helps
    assert all(text and text[0].isupper() and text.endswith(".") for text in helps)


@pytest.mark.parametrize("group", ["", "data"])
def test_help__of_a_group__names_each_of_its_commands(group: str, capsys: Capture) -> None:
    assert ended([*group.split(), "-h"]) == 0
    out = capsys.readouterr().out
    for path in COMMANDS:
        named = re.search(rf"^  {path}( |$)", out, re.MULTILINE) is not None
        assert named == path.startswith(group)


def test_help__whole_list_in_a_fresh_process__imports_nothing_heavy() -> None:
    code = f"""
import sys
from mobilevision.apps.main import COMMANDS, main
for path in ["", "data", *COMMANDS]:
    try:
        main([*path.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0
try:
    main(["--version"])
except SystemExit as end:
    assert end.code == 0
print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_commands__every_one_of_every_module__is_in_the_table() -> None:
    folder = Path(commands.__file__).parent
    names = [path.stem for path in folder.glob("[a-z]*.py")]
    modules = [import_module(f"{commands.__name__}.{name}") for name in names]
    named = [path for module in modules for path in module.COMMANDS]
    assert sorted(named) == sorted(COMMANDS)


def test_version__prints_the_installed_ones(capsys: Capture) -> None:
    from importlib.metadata import version

    assert ended(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mobilevision {version('mobilevision')}"
    assert f"torch {version('torch')}" in lines
    assert f"lightning {version('lightning')}" in lines


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["dtaa"], "did you mean 'data'?"),
        (["data", "chek"], "did you mean 'check'?"),
        (["data", "download", "cocoo"], "did you mean 'coco'?"),
        (["validat"], "did you mean 'validate'?"),
        (["--verison"], "has no command '--verison'"),
    ],
)
def test_main__unknown_command__suggestion_and_status_2(
    words: list[str], hint: str, capsys: Capture
) -> None:
    assert ended(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err
    assert err.startswith("error: ")


def test_main__nothing_alike__no_suggestion(capsys: Capture) -> None:
    assert ended(["qqqqq"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("group", GROUPS)
def test_main__no_command__help_on_stderr_and_status_2(group: str, capsys: Capture) -> None:
    assert ended(group.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: mobilevision")


@pytest.mark.parametrize(
    "words",
    [
        ["data", "synthetic"],
        ["data", "synthetic", "here", "--train", "many"],
        ["data", "synthetic", "here", "--tran", "3"],
        ["data", "download", "coco", "--year", "2015"],
        ["evaluate", "coco", "--results", "results.json"],
    ],
)
def test_main__wrong_options__usage_and_status_2(words: list[str], capsys: Capture) -> None:
    assert ended(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: " in err
    assert "error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", TRAINING)
def test_main__training__is_handed_on_unchanged(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    stand_in = ModuleType("stand_in")
    stand_in.lightning = calls.append
    monkeypatch.setitem(sys.modules, "mobilevision.apps.cli", stand_in)
    words = [verb, "-c", "configs/ssd300.yaml", "--help", "--data.root=x"]
    assert main(words) == 0
    assert calls == [words]


def test_main__no_arguments_given__takes_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "argv", ["mobilevision", "data", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "usage: mobilevision data" in capsys.readouterr().out


def test_main__ctrl_c__status_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mobilevision.datasets.synthetic import detection as synthetic

    def interrupt(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_scenes", interrupt)
    assert ended(["data", "synthetic", str(tmp_path / "scenes")]) == 130


def test_data_synthetic__then_data_check__written_found_and_faultless(
    tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "scenes"
    words = ["data", "synthetic", str(root), "--train", "3", "--val", "2", "--size", "64", "80"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == f"{root}: 3 + 2 images, written\n"
    assert "drawing" in err
    assert main(words) == 0
    assert capsys.readouterr().out == f"{root}: 3 + 2 images, there already\n"
    assert main(["data", "check", str(root)]) == 0
    assert "disk" in capsys.readouterr().out


def test_data_synthetic__other_parameters__message_and_status_2(
    tmp_path: Path, capsys: Capture
) -> None:
    words = ["data", "synthetic", str(tmp_path / "scenes"), "--train", "1", "--val", "1"]
    assert main(words) == 0
    capsys.readouterr()
    assert ended([*words, "--seed", "1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "other parameters" in err


def test_data_check__image_missing__status_1_and_json(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "scenes"
    main(["data", "synthetic", str(root), "--train", "2", "--val", "1", "--size", "64", "64"])
    (root / "train" / "000002.jpg").unlink()
    capsys.readouterr()
    assert main(["data", "check", str(root), "--quick", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["quick"] is True
    assert "000002.jpg" in json.dumps(report)


def test_data_check__no_data_set__message_and_status_2(tmp_path: Path, capsys: Capture) -> None:
    assert ended(["data", "check", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.real_data
def test_evaluate_coco__reference_files__prints_the_expected_ap(
    real_data: Path, capsys: Capture
) -> None:
    truth = real_data / "coco_eval" / "instances_val2014_100_gt.json"
    results = real_data / "coco_eval" / "instances_val2014_fakebbox100_results.json"
    words = ["evaluate", "coco", "--ground-truth", str(truth), "--results", str(results)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(0.503647, abs=1e-6)
    assert main(words) == 0
    assert "person" in capsys.readouterr().out


def test_evaluate_coco__file_missing__message_and_status_2(tmp_path: Path, capsys: Capture) -> None:
    missing = str(tmp_path / "gt.json")
    assert ended(["evaluate", "coco", "--ground-truth", missing, "--results", missing]) == 2
    assert missing in capsys.readouterr().err


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The calls of ``download_coco``, which fetches nothing."""
    from mobilevision.datasets.detection import coco_download

    calls: list[dict[str, object]] = []

    def record(root: Path, **options: object) -> list[object]:
        calls.append({"root": root, **options})
        return []

    monkeypatch.setattr(coco_download, "download_coco", record)
    return calls


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend that somebody sits at a terminal and types this."""

    class Terminal:
        def __init__(self, line: str) -> None:
            self.line = line

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.line

    return lambda line: monkeypatch.setattr(sys, "stdin", Terminal(line))


def test_data_download_coco__yes__shows_the_sizes_and_fetches(
    fetched: list[dict[str, object]], tmp_path: Path, capsys: Capture
) -> None:
    words = ["data", "download", "coco", "--root", str(tmp_path), "--splits", "val", "--yes"]
    assert main([*words, "--base-url", "http://mirror"]) == 0
    out = capsys.readouterr().out
    assert "val2017.zip" in out
    assert "815.6 MB" in out
    assert "train2017.zip" not in out
    (call,) = fetched
    assert call["root"] == tmp_path
    assert call["splits"] == ["val"]
    assert call["year"] == 2017
    assert call["base_url"] == "http://mirror"


def test_data_download_coco__no_terminal__requires_yes(
    fetched: list[dict[str, object]], tmp_path: Path, capsys: Capture
) -> None:
    assert ended(["data", "download", "coco", "--root", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "19.3 GB" in out
    assert "--yes" in err
    assert fetched == []


@pytest.mark.parametrize(
    ("answer", "status", "calls"), [("y\n", 0, 1), ("YES\n", 0, 1), ("\n", 1, 0), ("", 1, 0)]
)
def test_data_download_coco__at_a_terminal__asks(
    answer: str,
    status: int,
    calls: int,
    fetched: list[dict[str, object]],
    terminal: Callable[[str], None],
    tmp_path: Path,
    capsys: Capture,
) -> None:
    terminal(answer)
    assert main(["data", "download", "coco", "--root", str(tmp_path)]) == status
    assert len(fetched) == calls
    assert "[y/N]" in capsys.readouterr().err


def test_data_download_coco__all_there__fetches_nothing(
    fetched: list[dict[str, object]], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")
    words = ["data", "download", "coco", "--root", str(tmp_path), "--year", "2014"]
    assert main([*words, "--splits", "val"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert fetched == []


def test_data_download_coco__unknown_split__status_2(tmp_path: Path, capsys: Capture) -> None:
    words = ["data", "download", "coco", "--root", str(tmp_path), "--splits", "valid"]
    assert ended(words) == 2
    assert "valid" in capsys.readouterr().err
