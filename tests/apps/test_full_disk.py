"""Commands on a disk without room: one message, nothing half-written, and on again with room.

The disk is a small one in memory, which only root may mount, on Linux.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps.batch.videos import mp4_writer
from mobilevision.apps.command import friendly_errors
from mobilevision.apps.main import main
from mobilevision.apps.training.runs import AtomicCheckpointIO
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.synthetic.world import write_world
from mobilevision.heads.checkpoint import Plan, write_checkpoint
from mobilevision.heads.classification import ClassificationTask, Classifier
from mobilevision.heads.detection import SSD, DetectionTask
from mobilevision.heads.face_attributes import AttributeNetwork, AttributeTask

_DISK_BYTES = 4 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class SmallDisk:
    """A disk of four MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, free_pages: int = 0) -> None:
        """Leave so many pages free."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(_PAGE))
        os.truncate(self._filler, self._filler.stat().st_size - free_pages * _PAGE)

    def make_room(self) -> None:
        """Let the disk be written again."""
        self._filler.unlink()

    def remount(self, option: str) -> None:
        """Such as "ro"."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk: {error}")
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, write_face_checkpoint: Callable[..., Path]
) -> Path:
    """Aligned faces, a face network, photos with places and a table of results."""
    root = tmp_path_factory.mktemp("inputs")
    (root / "faces").mkdir()
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(root / "faces" / f"{seed}.png")
    write_face_checkpoint(root / "face.ckpt")
    write_world(root / "world", train=12, val=2, progress=False)
    write_other_checkpoints(root)
    write_photo(root / "photo.jpg")
    for number, name in enumerate(["Ada", "Ada", "Bob"], start=1):
        (root / "people" / name).mkdir(parents=True, exist_ok=True)
        Image.open(root / f"faces/{number}.png").save(
            root / f"people/{name}/{name}_000{number}.png"
        )
    folds = "Ada\t1\t2\nAda\t1\tBob\t3\n" * 10
    (root / "pairs.txt").write_text(f"10\t1\n{folds}")
    rows = [{"name": f"{i}", "mult_adds": i, "params": i, "top1": i / 4} for i in (1, 2, 3)]
    (root / "results.json").write_text(json.dumps(rows))
    return root


def write_other_checkpoints(root: Path) -> None:
    """A detector, an attribute network and a classifier that know nothing."""
    backbone = Plan(MobileNetV1, {"width_mult": 0.25})
    jobs: dict[str, tuple[type[Any], type[Any]]] = {
        "ssd": (DetectionTask, SSD),
        "attributes": (AttributeTask, AttributeNetwork),
        "classifier": (ClassificationTask, Classifier),
    }
    for name, (task, network) in jobs.items():
        plan = Plan(network, {"backbone": backbone, "num_classes": 2})
        path = root / f"{name}.ckpt"
        write_checkpoint(path, task, plan, plan.build(), {0: "a", 1: "b"}, (64, 64), {})


def write_photo(path: Path) -> None:
    """A photo that was taken somewhere."""
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (10.0, 0.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)}
    Image.new("RGB", (32, 32)).save(path, exif=exif)


_FACE = "--aligned --device cpu --model {inputs}/face.ckpt"
COMMANDS = {
    "embed": f"embed {{inputs}}/faces --out {{out}}/e.parquet {_FACE}",
    "enroll": f"gallery enroll Ada {{inputs}}/faces --gallery {{out}} {_FACE}",
    "cells": "cells build --photos {inputs}/world/train.csv --max 5 --min 1 --out {out}/c.parquet"
    " --picture {out}/c.png",
    "synthetic": "data synthetic {out}/s --train 3 --val 1 --size 64 64",
    "shard": "data shard --photos {inputs}/world/train.csv --images {inputs}/world --out {out}/s"
    " --per-shard 5",
    "detect": "detect {inputs}/faces --out {out} --model {inputs}/ssd.ckpt --device cpu",
    "attributes": "attributes {inputs}/faces --aligned --out {out}/a.csv --device cpu"
    " --model {inputs}/attributes.ckpt",
    "gps": "data gps {inputs}/photo.jpg --out {out}/g.csv",
    "export": "export --ckpt {inputs}/classifier.ckpt --format exported-program --out {out}/c.pt2",
    "roc": "verify --pairs {inputs}/pairs.txt --images {inputs}/people --device cpu"
    " --model {inputs}/face.ckpt --roc {out}/roc.png",
    "tradeoff": "plot tradeoff {inputs}/results.json --out {out}/t.png",
}
NEEDS = {"embed": "pyarrow", "enroll": "lancedb", "cells": "pyarrow"}


def run(command: str, inputs: Path, out: Path) -> int:
    return main(command.format(inputs=inputs, out=out).split())


CASES = [(name, pages) for name in COMMANDS for pages in (0, 5) if name != "gps" or not pages]
"""The table of one photo fits into a page, beside the one of its folder."""


@pytest.mark.parametrize(("name", "free_pages"), CASES)
def test_command__full_disk__one_message_and_on_again_with_room(
    name: str, free_pages: int, disk: SmallDisk, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDS.get(name, "mobilevision"))
    out = disk.path / "out"
    disk.fill(free_pages)
    with pytest.raises(SystemExit) as ended:
        run(COMMANDS[name], inputs, out)
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].endswith("free some space or name another place")
    assert [path for path in disk.path.rglob("*") if ".tmp" in path.name] == []

    disk.make_room()
    assert run(COMMANDS[name], inputs, out) == 0
    assert [path for path in disk.path.rglob("*") if ".tmp" in path.name] == []


def run_with_ever_more_room(name: str, disk: SmallDisk, inputs: Path, out: Path) -> int:
    """Repeat a command, with a page more each time, until it is done; how often it failed."""
    for failures in range(40):
        disk.fill(failures)
        try:
            status = run(COMMANDS[name], inputs, out)
        except SystemExit as ended:
            status = ended.code
        if status == 0:
            return failures
        assert status == 2
        disk.make_room()
    raise AssertionError("never done")


def test_embed__room_page_by_page__goes_on(
    disk: SmallDisk, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    assert run_with_ever_more_room("embed", disk, inputs, disk.path) > 2
    assert "6 of 6 files, 6 rows" in capsys.readouterr().out


def test_enroll__room_page_by_page__each_face_once(
    disk: SmallDisk, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    people = disk.path / "people"
    assert run_with_ever_more_room("enroll", disk, inputs, people) > 2
    capsys.readouterr()
    assert main(["gallery", "list", "--json", "--gallery", str(people)]) == 0
    assert json.loads(capsys.readouterr().out) == {"Ada": 6}


def test_checkpoint__full_disk__none_and_one_message(
    disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.fill(free_pages=4)
    with pytest.raises(SystemExit) as ended, friendly_errors():
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(9000)}, disk.path / "last.ckpt")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("free some space or name another place")
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_mp4_writer__full_disk__no_video(disk: SmallDisk) -> None:
    disk.fill(free_pages=4)
    frames = np.random.default_rng(0).integers(0, 256, (30, 64, 80, 3), np.uint8)

    def write() -> None:
        with mp4_writer(disk.path / "film.mp4", 10) as writer:
            for frame in frames:
                writer.write(frame)

    with pytest.raises(OSError, match="not written whole"):
        write()
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_gallery__full_or_read_only_disk__is_read(
    disk: SmallDisk, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    people = disk.path / "people"
    run(COMMANDS["enroll"], inputs, people)
    (people / ".changing").touch()  # as if tidying had been cut short
    disk.fill()
    commands = (
        f"gallery list --json --gallery {people}",
        f"gallery identify {inputs}/faces/1.png --threshold 0.9 --gallery {people} {_FACE}",
    )
    for command in commands:
        assert run(command, inputs, people) == 0
    disk.remount("ro")
    capsys.readouterr()
    for command in commands:
        assert run(command, inputs, people) == 0
    said = capsys.readouterr().out
    assert json.loads(said.rpartition("}")[0] + "}") == {"Ada": 6}
    assert said.splitlines()[-1].endswith("1.png: Ada 1.000")
    with pytest.raises(SystemExit) as ended:
        run(f"gallery remove Ada --gallery {people}", inputs, people)
    assert ended.value.code == 2
    assert "Read-only file system" in capsys.readouterr().err
    disk.remount("rw")
    disk.make_room()
    assert run(f"gallery remove Ada --gallery {people}", inputs, people) == 0
