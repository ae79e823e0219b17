"""Generated scenes in COCO's format, written once as JPEG and JSON files.

The folder looks like any COCO dataset and is read by the same code::

    root/synthetic.json                       how it was made
    root/annotations/instances_train.json     images, annotations, categories
    root/annotations/instances_val.json
    root/train/000001.jpg ...
    root/val/000001.jpg ...

Boxes, areas and masks are those of the visible part of each object, as in COCO, and exact: a box
is the tightest one around its mask, an area is the mask's number of pixels, and ``segmentation``
is the mask itself as compressed run lengths. About one image in twenty is empty.

Nothing here imports torch; the data module is in ``module.py``.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .generated import write_jpeg, write_splits
from .scenes import CLASS_NAMES, SceneObject, draw_scene

VERSION = 1
"""Raised whenever the same parameters would draw other images."""

CATEGORIES: dict[int, str] = {index + 1: name for index, name in enumerate(CLASS_NAMES)}
"""Category id -> name, as the annotation files declare them."""


def annotation_file(split: str) -> str:
    """Return the path of a split's annotations relative to the root."""
    return f"annotations/instances_{split}.json"


def write_scenes(
    root: Path | str,
    *,
    train: int = 2000,
    val: int = 200,
    size_hw: tuple[int, int] = (240, 240),
    seed: int = 0,
    progress: bool = True,
) -> bool:
    """Make a generated dataset, unless the same one is there already.

    Equal parameters give equal annotation files, byte for byte. Training and validation never
    share a scene. For the parameters see `write_splits`.
    """
    write_split = partial(_write_split, size_hw=size_hw, seed=seed)
    return write_splits(
        root, write_split, counts={"train": train, "val": val}, size_hw=size_hw, seed=seed,
        version=VERSION, progress=progress,
    )  # fmt: skip


def _write_split(
    root: Path, split: str, index: int, numbers: Iterator[int], size_hw: tuple[int, int], seed: int
) -> None:
    (root / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in numbers:
        # A generator for each image: a scene depends on nothing but its own number.
        rng = np.random.default_rng([seed, index, image_id])
        scene = draw_scene(rng, size_hw)
        name = f"{image_id:06d}.jpg"
        write_jpeg(root / split / name, scene.image, rng)
        height, width = size_hw
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for item in scene.objects:
            annotations.append(_annotation(item, len(annotations) + 1, image_id))
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
    """Return the smallest box [x, y, width, height] in pixels around a mask (H, W), not empty.

    The pixel in row 0, column 0 alone gives [0, 0, 1, 1].
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    left, right, top, bottom = (int(edge) for edge in (*columns[[0, -1]], *rows[[0, -1]]))
    return [left, top, right - left + 1, bottom - top + 1]
