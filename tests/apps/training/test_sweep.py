"""What a grid runs, skips, resumes and reports; a small script stands for the training."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mobilevision.apps.training import sweep
from mobilevision.apps.training.sweep import Run, report_failures, run_grid
from mobilevision.datasets.errors import DataError

TRAINING = """
import pathlib, sys
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:] if "=" in word)
root = pathlib.Path(options["trainer.default_root_dir"])
run = root / f"version_{len(list(root.glob('version_*')))}"
(run / "checkpoints").mkdir(parents=True)
(run / "words.txt").write_text(" ".join(sys.argv[1:]))
(run / "checkpoints/last.ckpt").touch()
if options.get("fail"):
    print("first line\\nthe reason")
    sys.exit(3)
"""


@pytest.fixture(autouse=True)
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    monkeypatch.setattr(sweep, "_PROGRAM", (str(script),))
    return script


def words(run: Run, version: int = 0) -> str:
    return (run.directory / f"version_{version}" / "words.txt").read_text()


def test_run_grid__runs_each_in_its_directory_and_in_order(tmp_path: Path) -> None:
    runs = [Run(name, ("fit", f"--x={name}"), tmp_path / name) for name in ("b", "a")]
    outcomes = run_grid(runs)
    assert [outcome.run.name for outcome in outcomes] == ["b", "a"]
    assert all(outcome.succeeded and not outcome.skipped for outcome in outcomes)
    assert all(outcome.version == outcome.run.directory / "version_0" for outcome in outcomes)
    for run in runs:
        expected = f"fit --x={run.name} --trainer.default_root_dir={run.directory}"
        assert words(run) == expected
        record = json.loads((run.directory / "run.json").read_text())
        assert record["finished"]
        assert record["seconds"] > 0


def test_run_grid__again__skips_what_is_finished(tmp_path: Path) -> None:
    run = Run("a", ("fit",), tmp_path / "a")
    first = run_grid([run])[0]
    second = run_grid([run])[0]
    assert second.skipped
    assert second.succeeded
    assert second.seconds == first.seconds
    assert len(list(run.directory.glob("version_*"))) == 1


def test_run_grid__failed__goes_on_with_the_next_and_says_why(tmp_path: Path, capfd) -> None:
    bad = Run("bad", ("fit", "--fail=1"), tmp_path / "bad")
    good = Run("good", ("fit",), tmp_path / "good")
    outcomes = run_grid([bad, good])
    assert [outcome.succeeded for outcome in outcomes] == [False, True]
    assert outcomes[0].message == "first line\nthe reason\n(exit status 3)"
    assert report_failures(outcomes) == 1
    printed = capfd.readouterr().err
    assert "bad failed" in printed
    assert "the reason" in printed
    assert "1 of 2 runs failed" in printed


def test_run_grid__after_a_failure__resumes_from_the_last_checkpoint(
    tmp_path: Path, training: Path
) -> None:
    run = Run("a", ("fit", "--fail=1"), tmp_path / "a")
    first = run_grid([run])[0]
    training.write_text(TRAINING.replace('options.get("fail")', "False"))
    second = run_grid([run])[0]
    assert second.succeeded
    assert second.seconds > first.seconds
    assert second.version == run.directory / "version_1"
    assert words(run, 1).endswith("--ckpt_path=last")
    assert "--ckpt_path" not in words(run, 0)


def test_run_grid__other_options__are_refused_before_anything_starts(tmp_path: Path) -> None:
    run_grid([Run("a", ("fit", "--x=1"), tmp_path / "a")])
    other = [Run("b", ("fit",), tmp_path / "b"), Run("a", ("fit", "--x=2"), tmp_path / "a")]
    with pytest.raises(DataError, match="other options") as stopped:
        run_grid(other)
    assert "--x=1" in str(stopped.value)
    assert not (tmp_path / "b").exists()


def test_run_grid__failed_before_its_first_checkpoint__may_get_other_options(
    tmp_path: Path, training: Path
) -> None:
    training.write_text("raise SystemExit(2)")
    assert not run_grid([Run("a", ("fit", "--x=1"), tmp_path / "a")])[0].succeeded
    training.write_text(TRAINING)
    run = Run("a", ("fit", "--x=2"), tmp_path / "a")
    assert run_grid([run])[0].succeeded
    assert "--x=2" in words(run)
    assert "--ckpt_path" not in words(run)


def test_run_grid__changed_configuration_file__is_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("a: 1")
    run = Run("a", ("fit", "-c", str(config)), tmp_path / "a")
    run_grid([run])
    config.write_text("a: 2")
    with pytest.raises(DataError, match="another configuration file"):
        run_grid([run])


@pytest.mark.parametrize("form", [("-c", "{}"), ("--config", "{}"), ("--config={}",)])
def test_run_grid__missing_configuration_file__is_named(
    tmp_path: Path, form: tuple[str, ...]
) -> None:
    args = tuple(word.format(tmp_path / "absent.yaml") for word in form)
    with pytest.raises(DataError, match=r"absent\.yaml: No such file"):
        run_grid([Run("a", ("fit", *args), tmp_path / "a")])


def test_run_grid__same_directory_twice__is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one and two want the same directory"):
        run_grid([Run("one", ("fit",), tmp_path / "a"), Run("two", ("fit",), tmp_path / "a")])


def test_run_grid__broken_record__is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: not a record"):
        run_grid([Run("a", ("fit",), tmp_path / "a")])


def test_run_grid__interrupted__ends_its_process_and_keeps_the_time(tmp_path: Path) -> None:
    training = tmp_path / "slow.py"
    training.write_text("import os, pathlib, time\n"
                        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
                        "time.sleep(60)")  # fmt: skip
    script = f"""
        import signal
        from pathlib import Path
        from mobilevision.apps.training import sweep
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
        sweep._PROGRAM = ({str(training)!r},)
        sweep.run_grid([sweep.Run("a", ("fit",), Path({str(tmp_path / "a")!r}))])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert json.loads((tmp_path / "a" / "run.json").read_text())["finished"] is False
