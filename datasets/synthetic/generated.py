"""Folders of generated images, written once as a whole and recognized by their recipe."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import DataError

RECIPE_NAME = "synthetic.json"
"""The file in each folder with the parameters it was made with."""
SMALLEST_SIDE = 64


def write_generated(root: Path, recipe: dict[str, Any], write: Callable[[Path], None]) -> bool:
    """Make a folder, unless the same one is there already; return False if it was.

    It appears only when it is complete: everything is written next to it under another name and
    renamed at the end. ``recipe`` is plain data that identifies the dataset; ``write`` fills a
    folder.

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


def write_splits(
    root: Path | str,
    write_split: Callable[[Path, str, int, Iterator[int]], None],
    *,
    counts: Mapping[str, int],
    size_hw: tuple[int, int],
    seed: int,
    version: int,
    kind: str | None = None,
    progress: bool = True,
) -> bool:
    """Make a dataset of generated splits with `write_generated`.

    Args:
        root: Folder to make.
        write_split: Called with the folder to fill, the name and index of a split, and an iterator
            over the numbers of its images, from 1.
        counts: Number of images of each split: "train" and "val" need at least 1.
        size_hw: Height and width of every image in pixels, at least `SMALLEST_SIDE` each.
        seed: Not negative.
        version: Raised whenever the same parameters would draw other images.
        kind: Tells this kind of dataset from others.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: A parameter is out of range; see also `write_generated`.
    """
    for split, count in counts.items():
        if count < (split in ("train", "val")):
            raise DataError(f"{split}={count}: train and val need at least 1 image, test 0")
    if len(size_hw) != 2 or min(size_hw) < SMALLEST_SIDE:
        raise DataError(
            f"size_hw={tuple(size_hw)}: give height and width of at least {SMALLEST_SIDE} pixels"
        )
    if seed < 0:
        raise DataError(f"seed={seed}: give 0 or a positive number")
    recipe = {"version": version, **counts, "size_hw": list(size_hw), "seed": seed}

    def write(folder: Path) -> None:
        total = sum(counts.values())
        with tqdm(total=total, desc="drawing", unit="image", disable=not progress) as bar:
            for index, (split, count) in enumerate(counts.items()):
                if count:
                    write_split(folder, split, index, _counted(count, bar))

    return write_generated(Path(root), recipe if kind is None else {"kind": kind, **recipe}, write)


def _counted(count: int, bar: "tqdm[Any]") -> Iterator[int]:
    for number in range(1, count + 1):
        yield number
        bar.update()


def _is_finished(root: Path, recipe: dict[str, Any]) -> bool:
    """Return whether the root holds the dataset; raise if it holds anything else."""
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
    """Rename the finished folder; return False if another process was faster with the same."""
    try:
        if root.is_dir():
            root.rmdir()
        os.replace(partial, root)
    except OSError:
        if _is_finished(root, recipe):
            return False
        raise
    return True


def write_jpeg(path: Path, pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Write (H, W, 3) uint8 RGB as a JPEG of a random quality from 78 to 95.

    Raises:
        DataError: This build of OpenCV cannot.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(78, 96))]
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), quality)
    if not encoded:
        raise DataError(f"{path}: this build of OpenCV cannot write JPEG; install another one")
    path.write_bytes(data.tobytes())
