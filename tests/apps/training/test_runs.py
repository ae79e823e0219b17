import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mobilevision.apps.cli import lightning
from mobilevision.apps.training.runs import (
    AtomicCheckpointIO,
    last_checkpoint,
    make_logger,
    next_version,
    run_loggers,
)
from mobilevision.datasets.errors import DataError


def test_next_version__is_one_more_than_the_highest(tmp_path: Path) -> None:
    assert next_version(tmp_path) == 0
    for name in ("version_0", "version_10", "version_x", "other_99"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11


def test_run_loggers__by_default__csv_and_tensorboard_in_one_directory(tmp_path: Path) -> None:
    run = tmp_path / "version_4"
    csv, tensorboard = run_loggers(run, None)
    assert isinstance(csv, CSVLogger)
    assert isinstance(tensorboard, TensorBoardLogger)
    assert Path(csv.log_dir) == Path(tensorboard.log_dir) == run


def test_run_loggers__of_a_user__first_is_the_one_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "version_4"
    own = make_logger(run, CSVLogger, save_dir=str(tmp_path), flush_logs_every_n_steps=3)
    elsewhere = make_logger(run, TensorBoardLogger, save_dir=str(tmp_path / "tb"))
    assert run_loggers(run, [elsewhere, own]) == [own, elsewhere]
    assert str(elsewhere.log_dir).startswith(str(tmp_path / "tb"))
    (only,) = run_loggers(run, False)
    assert Path(str(only.log_dir)) == run


def test_fit__several_loggers__one_directory_each_run_and_images_in_all(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow = pytest.importorskip("wandb"), pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    loggers = [
        *(f"--trainer.logger+={name}" for name in ("WandbLogger", "MLFlowLogger")),
        "--trainer.logger+=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'runs'}",
    ]  # fmt: skip
    for resumed in ((), ("--ckpt_path=last", "--trainer.max_epochs=2")):
        lightning(["fit", "-c", str(recipe), "--trainer.max_epochs=1", *loggers, *resumed])
        wandb.finish()
    runs = tmp_path / "runs"
    names = {"checkpoints", "config.yaml", "curves.png", "metrics.csv", "pictures", "wandb"}
    for run in (runs / "version_0", runs / "version_1"):
        found = {path.name for path in run.iterdir()}
        assert names <= found
        assert any(name.startswith("events.out.tfevents") for name in found)
        (media,) = run.glob("wandb/offline-run-*/files/media/images")
        assert list(media.glob("curves_*.png"))
        assert list(media.glob("pictures/fit_*.png"))
    client = mlflow.MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert sorted(each.info.run_name for each in found) == ["runs/version_0", "runs/version_1"]
    for each in found:
        assert each.data.metrics["val/AP"] >= 0
        images = {
            Path(path.path).name for path in client.list_artifacts(each.info.run_id, "images")
        }
        assert {name.partition("+")[0] for name in images} == {"curves", "pictures~fit"}
    assert list(here.iterdir()) == []


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


# Forks, because torch takes seconds to import.
WRITER = """
import os, sys, torch
from mobilevision.apps.training.runs import AtomicCheckpointIO
for _ in range(3):
    if os.fork() == 0:
        for number in range(10_000):
            AtomicCheckpointIO().save_checkpoint(
                {"number": number, "state": torch.full((2_000_000,), number)}, sys.argv[1]
            )
            print(os.getpid(), number, flush=True)
    os.wait()
    print("killed", flush=True)
"""


def test_checkpoint__survives_kill_9_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for pause in (0.0, 0.007, 0.013):
            for _ in range(3):
                process, written = map(int, writer.stdout.readline().split())
            time.sleep(pause)
            os.kill(process, signal.SIGKILL)
            while writer.stdout.readline() != "killed\n":
                pass
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
