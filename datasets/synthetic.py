"""Generated data in COCO's format: drawn scenes, written once as real JPEG and JSON files.

The folder looks like any COCO data set and is read through the same code::

    root/synthetic.json                       how it was made
    root/annotations/instances_train.json     images, annotations, categories
    root/annotations/instances_val.json
    root/train/000001.jpg ...
    root/val/000001.jpg ...

Boxes, areas and masks are those of the visible part of each object, as in COCO, and exact: a box
is the tightest one around its mask, an area is the mask's number of pixels, and ``segmentation``
is the mask itself as compressed run lengths. About one picture in twenty is empty.

Nothing here imports torch; the data module is in ``synthetic_module.py``.
"""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from tqdm import tqdm

from .errors import DataError
from .scenes import Scene, SceneObject, draw_scene
from .shapes import CLASS_NAMES

VERSION = 1
"""Raised whenever the same parameters would draw other pictures."""

CATEGORIES: dict[int, str] = {index + 1: name for index, name in enumerate(CLASS_NAMES)}
"""Category id -> name, as the annotation files declare them."""

DEFAULT_TRAIN = 2000
DEFAULT_VAL = 200
DEFAULT_SIZE_HW = (240, 240)
SMALLEST_SIDE = 64

_SPLITS = ("train", "val")
_RECIPE_NAME = "synthetic.json"


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
        train: Number of training pictures, at least 1.
        val: Number of validation pictures, at least 1.
        size_hw: Height and width of every picture in pixels, at least 64 each.
        seed: Not negative. Training and validation never share a scene.
        progress: Show a progress bar on stderr.

    Returns:
        True if the data set was written, False if it was there.

    Raises:
        DataError: A parameter is out of range, the folder holds something else, or it holds
            scenes made with other parameters.
    """
    root = Path(root)
    recipe = _recipe(train, val, size_hw, seed)
    if _is_finished(root, recipe):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}.partial")
    try:
        with tqdm(total=train + val, desc="drawing", unit="image", disable=not progress) as bar:
            for index, (split, count) in enumerate(zip(_SPLITS, (train, val), strict=True)):
                _write_split(
                    partial, split, count=count, size_hw=size_hw, seed=(seed, index), bar=bar
                )
        (partial / _RECIPE_NAME).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        return _publish(partial, root, recipe)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _recipe(train: int, val: int, size_hw: tuple[int, int], seed: int) -> dict[str, Any]:
    if train < 1 or val < 1:
        raise DataError(f"train={train}, val={val}: both need at least 1 picture")
    if len(size_hw) != 2 or min(size_hw) < SMALLEST_SIDE:
        raise DataError(
            f"size_hw={tuple(size_hw)}: give height and width of at least {SMALLEST_SIDE} pixels"
        )
    if seed < 0:
        raise DataError(f"seed={seed}: give 0 or a positive number")
    return {
        "version": VERSION,
        "train": train,
        "val": val,
        "size_hw": list(size_hw),
        "seed": seed,
    }


def _is_finished(root: Path, recipe: dict[str, Any]) -> bool:
    """Whether the root holds this very data set.

    Raises:
        DataError: It holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"{root}: is a file; name a folder for the generated data")
    path = root / _RECIPE_NAME
    if not path.is_file():
        if any(root.iterdir()):
            raise DataError(
                f"{root}: is not empty and has no {_RECIPE_NAME}, so it was not generated; "
                "name another folder for the generated data"
            )
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); delete {root} to make it again") from error
    if found != recipe:
        raise DataError(
            f"{root}: holds scenes made with other parameters ({found}, asked for {recipe}); "
            "delete the folder or name another one"
        )
    return True


def _publish(partial: Path, root: Path, recipe: dict[str, Any]) -> bool:
    """Give the finished folder its name; False if another process was faster with the same."""
    try:
        if root.is_dir():
            root.rmdir()
        os.replace(partial, root)
    except OSError:
        if _is_finished(root, recipe):
            return False
        raise
    return True


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
        # A generator for each picture: a scene depends on nothing but its own number.
        rng = np.random.default_rng([*seed, image_id])
        scene = draw_scene(rng, size_hw)
        name = f"{image_id:06d}.jpg"
        _write_jpeg(folder / name, scene, quality=int(rng.integers(78, 96)))
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


def _write_jpeg(path: Path, scene: Scene, quality: int) -> None:
    bgr = np.ascontiguousarray(scene.image[:, :, ::-1])
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise DataError(f"{path}: this build of OpenCV cannot write JPEG; install another one")
    path.write_bytes(data.tobytes())


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
