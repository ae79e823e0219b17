"""Generated data in COCO's format: drawn scenes, written once as real JPEG and JSON files.

The folder looks like any COCO data set and is read through the same code::

    root/synthetic.json                       how it was made
    root/annotations/instances_train.json     images, annotations, categories
    root/annotations/instances_val.json
    root/train/000001.jpg ...
    root/val/000001.jpg ...

Boxes, areas and masks are those of the visible part of each object, as in COCO, and exact: a box
is the tightest one around its mask, an area is the mask's number of pixels, and ``segmentation``
is the mask itself as compressed run lengths. About one image in twenty is empty.

Nothing here imports torch; the data module is in ``synthetic_module.py``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from tqdm import tqdm

from .generated import check_recipe, write_generated, write_jpeg
from .scenes import CLASS_NAMES, SceneObject, draw_scene

VERSION = 1
"""Raised whenever the same parameters would draw other images."""

CATEGORIES: dict[int, str] = {index + 1: name for index, name in enumerate(CLASS_NAMES)}
"""Category id -> name, as the annotation files declare them."""

DEFAULT_TRAIN = 2000
DEFAULT_VAL = 200
DEFAULT_SIZE_HW = (240, 240)

_SPLITS = ("train", "val")


def annotation_file(split: str) -> str:
    """Path of a split's annotations relative to the root; ``split`` is "train" or "val"."""
    return f"annotations/instances_{split}.json"


def write_scenes(
    root: Path | str,
    *,
    train: int = DEFAULT_TRAIN,
    val: int = DEFAULT_VAL,
    size_hw: tuple[int, int] = DEFAULT_SIZE_HW,
    seed: int = 0,
    progress: bool = True,
) -> bool:
    """Make a generated data set, unless the same one is there already.

    Equal parameters give equal annotation files, byte for byte. The folder appears only when it
    is complete: everything is written next to it under another name and renamed at the end.

    Args:
        root: Folder to make. It may exist if it is empty or holds the same data set.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        size_hw: Height and width of every image in pixels, at least 64 each.
        seed: Not negative. Training and validation never share a scene.
        progress: Show a progress bar on stderr.

    Returns:
        True if the data set was written, False if it was there.

    Raises:
        DataError: A parameter is out of range, the folder holds something else, or it holds
            scenes made with other parameters.
    """

    def write(folder: Path) -> None:
        with tqdm(total=train + val, desc="drawing", unit="image", disable=not progress) as bar:
            for index, (split, count) in enumerate(zip(_SPLITS, (train, val), strict=True)):
                _write_split(
                    folder, split, count=count, size_hw=size_hw, seed=(seed, index), bar=bar
                )

    return write_generated(Path(root), _recipe(train, val, size_hw, seed), write)


def _recipe(train: int, val: int, size_hw: tuple[int, int], seed: int) -> dict[str, Any]:
    check_recipe(train, val, size_hw, seed)
    return {
        "version": VERSION,
        "train": train,
        "val": val,
        "size_hw": list(size_hw),
        "seed": seed,
    }


def _write_split(
    root: Path,
    split: str,
    *,
    count: int,
    size_hw: tuple[int, int],
    seed: tuple[int, int],
    bar: "tqdm[Any]",
) -> None:
    folder = root / split
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, count + 1):
        # A generator for each image: a scene depends on nothing but its own number.
        rng = np.random.default_rng([*seed, image_id])
        scene = draw_scene(rng, size_hw)
        name = f"{image_id:06d}.jpg"
        write_jpeg(folder / name, scene.image, quality=int(rng.integers(78, 96)))
        height, width = size_hw
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for item in scene.objects:
            annotations.append(_annotation(item, len(annotations) + 1, image_id))
        bar.update()
    document = {
        "info": {"description": f"Generated scenes, {split}", "version": str(VERSION)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()
        ],
    }
    path = root / annotation_file(split)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def _annotation(item: SceneObject, annotation_id: int, image_id: int) -> dict[str, Any]:
    lengths: Any = coco_mask.encode(np.asfortranarray(item.mask, np.uint8))
    height, width = item.mask.shape
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item.label + 1,
        "bbox": tight_box_xywh(item.mask),
        "area": int(np.count_nonzero(item.mask)),
        "iscrowd": 0,
        "segmentation": {"size": [height, width], "counts": lengths["counts"].decode("ascii")},
    }


def tight_box_xywh(mask: NDArray[np.bool_]) -> list[int]:
    """The smallest box around the pixels of a mask that has some.

    Args:
        mask: (H, W), True inside.

    Returns:
        [x, y, width, height] in pixels; the pixel in row 0, column 0 alone gives [0, 0, 1, 1].
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    left, right, top, bottom = (int(edge) for edge in (*columns[[0, -1]], *rows[[0, -1]]))
    return [left, top, right - left + 1, bottom - top + 1]
