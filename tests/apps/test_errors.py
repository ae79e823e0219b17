"""How command lines end."""

import errno
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilevision.apps.cli import lightning
from mobilevision.apps.command import friendly_errors
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError, SharedFilesWarning


def test_friendly_errors__data_error__message_alone_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise DataError("a.json: is empty; write it again")
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a.json: is empty; write it again\n"


def test_friendly_errors__weights_error__message_alone_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise WeightsError("w.npz: does not fit")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: w.npz: does not fit\n"


def test_friendly_errors__ctrl_c__status_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_friendly_errors__fault_of_the_program__keeps_its_type() -> None:
    with pytest.raises(ValueError, match="a fault"), friendly_errors():
        raise ValueError("a fault")


def test_friendly_errors__nothing_wrong__says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with friendly_errors():
        pass
    assert capsys.readouterr() == ("", "")


def raise_cause_of_a_cause() -> None:
    try:
        try:
            raise DataError("a.json: is empty")
        except DataError as error:
            raise ValueError("does not validate") from error
    except ValueError as error:
        raise TypeError("cannot be made") from error


def raise_repeated_message() -> None:
    try:
        raise DataError("a.json: is empty")
    except DataError as error:
        raise ValueError(f"does not validate: {error}")  # noqa: B904 (what is tested)


def raise_fault_in_handler() -> None:
    try:
        raise DataError("a.json: is empty")
    except DataError:
        {}["missing"]


@pytest.mark.parametrize("fail", [raise_cause_of_a_cause, raise_repeated_message])
def test_friendly_errors__wrapped_data_error__its_message_alone(
    fail: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        fail()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.json: is empty\n"


def test_friendly_errors__fault_while_a_data_error_is_handled__not_hidden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyError, match="missing"), friendly_errors():
        raise_fault_in_handler()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/a.json"),
            "/data/a.json: Permission denied; change its permissions or name another place",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/last.ckpt"),
            "runs/last.ckpt: No space left on device; free some space or name another place",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),  # as a write reports it
            "No space left on device; free some space or name another place",
        ),
    ],
)
def test_friendly_errors__disk__one_line_and_status_2(
    error: OSError, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise RuntimeError("could not save") from error
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def full_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE a (b)")


def unreachable_sqlite(path: Path) -> None:
    sqlite3.connect(path / "absent" / "a.db")


def read_only_sqlite(path: Path) -> None:
    path.touch()
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        connection.execute("CREATE TABLE a (b)")


def text_of(kind: type[Exception], text: str) -> Callable[[Path], None]:
    def fail(_: Path) -> None:
        raise kind(text)

    return fail


ROOM = "free some space or name another place"


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (full_sqlite, f"No space left on device; {ROOM}"),
        (unreachable_sqlite, "Permission denied; change its permissions or name another place"),
        (read_only_sqlite, "Read-only file system; name a place that can be written"),
        (
            text_of(
                RuntimeError,
                "lance error: LanceError(IO): No space left on device (os error 28), writer.rs:1",
            ),
            f"No space left on device; {ROOM}",
        ),
        (
            text_of(OSError, "[Errno 28] Error writing bytes. Detail: No space left on device"),
            f"No space left on device; {ROOM}",
        ),
        (
            text_of(RuntimeError, "basic_ios::clear: iostream error"),  # OpenVINO
            "the disk did not take what was to be written (basic_ios::clear: iostream error); "
            f"{ROOM}",
        ),
    ],
)
def test_friendly_errors__disk_as_libraries_tell_of_it(
    fail: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        fail(tmp_path / "a.db")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_friendly_errors__other_errors_of_sqlite_keep_their_type(tmp_path: Path) -> None:
    with (
        pytest.raises(sqlite3.OperationalError, match="syntax"),
        friendly_errors(),
        sqlite3.connect(tmp_path / "a.db") as connection,
    ):
        connection.execute("NO SQL")


def test_friendly_errors__warning_about_shared_files__its_message_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = warnings.showwarning
    with friendly_errors(), warnings.catch_warnings(action="always"):
        warnings.warn("people: others could read it", SharedFilesWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: people: others could read it\n"
    assert warnings.showwarning is usual


def test_friendly_errors__other_operating_system_error__keeps_its_type() -> None:
    with pytest.raises(IsADirectoryError), friendly_errors():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), "a/b")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_friendly_errors__file_in_place_of_a_folder__says_so(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"), friendly_errors():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert "a file is where a folder should be" in capsys.readouterr().err


def test_lightning__constructor_raises_a_data_error__its_message_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lightning"])  # Lightning warns where both carry options
    missing = tmp_path / "missing"
    with pytest.raises(SystemExit) as caught:
        lightning(
            [
                "validate",
                "--model=mobilevision.heads.detection.DetectionTask",
                "--model.network=mobilevision.heads.detection.SSD",
                "--model.network.backbone=mobilevision.backbone.MobileNetV1",
                "--data=mobilevision.datasets.detection.module.DetectionDataModule",
                f"--data.root={missing}",
            ]
        )
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        err.splitlines()[-1]
    ]
    assert err.splitlines()[-1].startswith(f"error: {missing}: no such folder")
    assert "Traceback" not in err


def test_command_line__reader_that_has_enough__ends_quietly() -> None:
    code = "from mobilevision.apps.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "cost", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_friendly_errors__another_pipe_breaks__keeps_its_traceback() -> None:
    with pytest.raises(BrokenPipeError, match="of a worker"), friendly_errors():
        raise BrokenPipeError(errno.EPIPE, "of a worker")
