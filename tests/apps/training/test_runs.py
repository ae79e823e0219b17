import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mobilevision.apps.training.runs import (
    AtomicCheckpointIO,
    last_checkpoint,
    next_version,
    run_loggers,
)
from mobilevision.datasets.errors import DataError


def test_next_version__is_one_more_than_the_highest(tmp_path: Path) -> None:
    assert next_version(tmp_path) == 0
    for name in ("version_0", "version_10", "version_x", "other_99"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11


def test_run_loggers__share_one_new_directory(tmp_path: Path) -> None:
    (tmp_path / "version_3").mkdir()
    tensorboard, csv = run_loggers(tmp_path)
    assert Path(str(tensorboard.log_dir)) == Path(str(csv.log_dir)) == tmp_path / "version_4"


def test_last_checkpoint__is_the_newest_of_all_runs(tmp_path: Path) -> None:
    for version, age in ((0, 50), (1, 10), (2, 90)):
        folder = tmp_path / f"version_{version}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes(b"x")
        os.utime(folder / "last.ckpt", (time.time() - age,) * 2)
    assert last_checkpoint(tmp_path).parts[-3] == "version_1"


def test_last_checkpoint__without_any_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no last\.ckpt under"):
        last_checkpoint(tmp_path)


def test_checkpoint__round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state": torch.arange(3), "epoch": 2}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert loaded["epoch"] == 2
    assert torch.equal(loaded["state"], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_checkpoint__that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def half(_: object, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


WRITER = """
import sys, torch
from mobilevision.apps.training.runs import AtomicCheckpointIO
for number in range(10_000):
    AtomicCheckpointIO().save_checkpoint(
        {"number": number, "state": torch.full((2_000_000,), number)}, sys.argv[1]
    )
    print(number, flush=True)
"""


def test_checkpoint__survives_kill_9_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for pause in (0.0, 0.007, 0.013):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3):
            written = int(writer.stdout.readline())
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        loaded = AtomicCheckpointIO().load_checkpoint(path)
        assert loaded["number"] >= written
        assert (loaded["state"] == loaded["number"]).all()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_checkpoint__that_is_broken_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.ckpt: not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_checkpoint__that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.ckpt: no such file"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


class Payload:
    """Unpickling this would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_checkpoint__with_code_in_it_is_refused_whatever_the_caller_asks(tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    torch.save({"payload": Payload(tmp_path / "ran")}, path)
    with pytest.raises(DataError, match="not a checkpoint that can be read safely"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "ran").exists()
