"""Folders of generated images: written once, whole, and known again by their recipe."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import DataError

RECIPE_NAME = "synthetic.json"
"""In each such folder: how it was made."""
SMALLEST_SIDE = 64


def write_generated(root: Path, recipe: dict[str, Any], write: Callable[[Path], None]) -> bool:
    """Make a folder, unless the same one is there already.

    It appears only when it is complete: everything is written next to it under another name and
    renamed at the end.

    Args:
        root: Folder to make. It may exist if it is empty or holds the same data set.
        recipe: Plain data that tells this data set from others.
        write: Fills the folder that it is given.

    Returns:
        True if it was written, False if it was there.

    Raises:
        DataError: The folder holds something else, or images made with other parameters.
    """
    if _is_finished(root, recipe):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial)
        (partial / RECIPE_NAME).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        return _publish(partial, root, recipe)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_recipe(train: int, val: int, size_hw: tuple[int, int], seed: int) -> None:
    """Refuse numbers that make no data set.

    Raises:
        DataError: A split without images, sides below `SMALLEST_SIDE` px, or a negative seed.
    """
    if train < 1 or val < 1:
        raise DataError(f"train={train}, val={val}: both need at least 1 image")
    if len(size_hw) != 2 or min(size_hw) < SMALLEST_SIDE:
        raise DataError(
            f"size_hw={tuple(size_hw)}: give height and width of at least {SMALLEST_SIDE} pixels"
        )
    if seed < 0:
        raise DataError(f"seed={seed}: give 0 or a positive number")


def _is_finished(root: Path, recipe: dict[str, Any]) -> bool:
    """Whether the root holds this very data set.

    Raises:
        DataError: It holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"{root}: is a file; name a folder for the generated data")
    path = root / RECIPE_NAME
    if not path.is_file():
        if any(root.iterdir()):
            raise DataError(
                f"{root}: is not empty and has no {RECIPE_NAME}, so it was not generated; "
                "name another folder for the generated data"
            )
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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


def write_jpeg(path: Path, pixels: np.ndarray, quality: int) -> None:
    """Write (H, W, 3) uint8 RGB as a JPEG.

    Raises:
        DataError: This build of OpenCV cannot.
    """
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise DataError(f"{path}: this build of OpenCV cannot write JPEG; install another one")
    path.write_bytes(data.tobytes())
