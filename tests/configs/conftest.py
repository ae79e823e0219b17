"""Small data sets in the layouts that the recipes expect, by the class of their data module."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.datasets.geolocation.cells import build_partition
from mobilevision.datasets.geolocation.coordinates import read_positions
from mobilevision.datasets.synthetic.classification import write_objects
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.datasets.synthetic.world import write_world
from mobilevision.datasets.vectors import VectorTable, write_vectors

Maker = Callable[[Path], list[str]]


def coco(root: Path) -> list[str]:
    """Four generated scenes, also under the names of COCO 2014 with a file of minival ids."""
    write_scenes(root, train=4, val=4, size_hw=(96, 96), seed=1, progress=False)
    for split, offset in (("train", 0), ("val", 1000)):  # ids differ in all of COCO
        (root / f"{split}2014").symlink_to(root / split)
        truth = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        for row in truth["images"]:
            row["id"] += offset
        for row in truth["annotations"]:
            row["id"], row["image_id"] = row["id"] + offset, row["image_id"] + offset
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(truth))
    kept = [str(image["id"]) for image in truth["images"][:2]]
    (root / "mscoco_minival_ids.txt").write_text("\n".join(kept))
    return ["--data.root", str(root)]


def generated_scenes(root: Path) -> list[str]:
    return ["--data.root", str(root), "--data.train_scenes=4", "--data.val_scenes=4"]


def generated_objects(root: Path) -> list[str]:
    return ["--data.root", str(root), "--data.train_pictures=8", "--data.val_pictures=8"]


def imagenet(root: Path) -> list[str]:
    write_objects(root, train=8, val=8, size_hw=(64, 64), progress=False)
    return ["--data.root", str(root)]


def stanford_dogs(root: Path) -> list[str]:
    for image in range(4):
        path = root / "Images" / f"n0208562{image % 2}-Breed" / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (image * 50, 9, 9)).save(path)
    files = [str(path.relative_to(root / "Images")) for path in sorted(root.rglob("*.jpg"))]
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("\n".join(files))
    return ["--data.root", str(root)]


def cifar(root: Path) -> list[str]:
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (2, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(root / name)
    (root / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    return ["--data.root", str(root)]


def faces(root: Path) -> list[str]:
    """CelebA's layout with three images of each of eight people, two of them for training."""
    points = "69 111 108 111 88 135 73 152 105 152"
    names = [f"{number:06}.jpg" for number in range(24)]
    folder = root / "img_align_celeba"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)).save(folder / name)
    lists = {
        "list_eval_partition": [f"{name} {int(row >= 6)}" for row, name in enumerate(names)],
        "identity_CelebA": [f"{name} {row // 3}" for row, name in enumerate(names)],
        "list_landmarks_align_celeba": [f"{name} {points}" for name in names],
        "list_attr_celeba": ["24", "Male", *(f"{name} 1" for name in names)],
    }
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines))
    write_vectors(root / "teacher.npz", VectorTable(np.array(names), np.eye(24, 128)))
    return [f"--data.train.root={root}", f"--data.val.root={root}", "--data.test=null",
            "--data.views=1", f"--model.teacher.table={root / 'teacher.npz'}"]  # fmt: skip


def wider_face(root: Path) -> list[str]:
    """WIDER FACE's layout with four images of two faces each for every split."""
    rng = np.random.default_rng(0)
    faces = "2\n10 10 30 40 0 0 0 0 0 0\n60 50 20 20 1 0 0 1 0 0"
    for split in ("train", "val"):
        names = [f"0--Parade/{number}.jpg" for number in range(4)]
        folder = root / f"WIDER_{split}" / "images"
        (folder / "0--Parade").mkdir(parents=True)
        for name in names:
            Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / name)
        table = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        table.parent.mkdir(exist_ok=True)
        table.write_text("\n".join(f"{name}\n{faces}" for name in names))
    return [f"--data.{split}.root={root}" for split in ("train", "val")]


def people(root: Path) -> list[str]:
    faces(root)
    return [f"--data.root={root}", f"--model.teacher.table={root / 'teacher.npz'}"]


def generated_world(root: Path) -> list[str]:
    counts = {"train": 40, "val": 4, "test": 4}
    return ["--data.root", str(root), *(f"--data.{x}_photos={n}" for x, n in counts.items())]


def photos(root: Path) -> list[str]:
    """A generated world as tables with a folder of images and a file of cells."""
    write_world(root, train=40, val=4, progress=False)
    latlng_deg = read_positions(root / "train.csv").latlng_deg
    build_partition(latlng_deg, 10, 2)[0].write(root / "cells.parquet")
    return ["--data.root", str(root), "--data.images=."]


SMALL_DATA: dict[str, Maker] = {
    "GeneratedWorldModule": generated_world,
    "PhotoTableModule": photos,
    "FaceDataModule": faces,
    "FaceDetectionDataModule": wider_face,
    "CelebAPeopleModule": people,
    "DetectionDataModule": coco,
    "SyntheticDataModule": generated_scenes,
    "SyntheticClassificationModule": generated_objects,
    "ImageNetModule": imagenet,
    "StanfordDogsModule": stanford_dogs,
    "CifarModule": cifar,
}
"""Class of the data module -> what writes a small data set and returns the options that name it."""


@pytest.fixture(scope="session")
def small_data(
    tmp_path_factory: pytest.TempPathFactory, drawn_celeba: Path
) -> Callable[[str], list[str]]:
    """Options for a data module by its class path; the data is written once."""
    made = {"CelebAModule": ["--data.root", str(drawn_celeba)]}

    def options(class_path: str) -> list[str]:
        name = class_path.rpartition(".")[2]
        if name not in SMALL_DATA and name not in made:
            pytest.fail(f"{name}: say in {__file__} how a small data set of its layout is made")
        if name not in made:
            made[name] = SMALL_DATA[name](tmp_path_factory.mktemp("configs") / "data")
        return made[name]

    return options
