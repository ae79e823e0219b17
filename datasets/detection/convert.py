"""Conversion of detection datasets in any format to COCO's. Needs no torch."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError
from ..files import replaced_folder
from .annotations import Annotations
from .held_out import Division, divide
from .image_checks import fit_to_images
from .layout import FormatName, Layout, ReadOptions, find_layout


@dataclass(frozen=True)
class Converted:
    """The layout that was read, the annotations of each split written, and what was held out."""

    layout: Layout
    splits: dict[str, Annotations]
    division: Division | None = None


def convert_dataset(
    root: str | Path,
    out: Path,
    layout: FormatName | None = None,
    *,
    options: ReadOptions | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    link: bool = False,
    progress: bool = True,
) -> Converted:
    """Write a dataset in COCO's format, whole or not at all.

    ``out`` gets ``annotations/instances_<split>.json`` and a folder of images for each split. Boxes
    are those of the upright image; masks are left out.

    Args:
        root: the dataset, see `find_layout`.
        out: a folder that is absent or empty.
        layout: see `find_layout`.
        options: how the annotations are read.
        val_fraction: share of the training images for a validation split, where there is none; see
            `divide`.
        split_seed: of that choice.
        link: link the images (hard links) in place of copying them.
        progress: whether to show progress bars.

    Raises:
        DataError: ``out`` has content, the dataset is faulty, or an image cannot be linked.
        OSError: ``out`` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already. Name another folder, or remove it.")
    found = find_layout(root, layout)
    splits: dict[str, Annotations] = {}
    categories = found.known_categories()
    for split in found.splits:
        annotations = fit_to_images(found.read(split, categories, options))
        categories = annotations.categories
        splits[split] = annotations
    division = None
    if val_fraction is not None:
        if "val" in splits:
            raise DataError(f"{root}: has a validation split already; leave out the fraction.")
        if "train" not in splits:
            raise DataError(f"{root}: has no training split to divide; leave out the fraction.")
        division = divide(splits["train"], val_fraction, split_seed)
        splits["val"] = splits["train"].select(division.held_out)
        splits["train"] = splits["train"].select(~division.held_out)
    with replaced_folder(out) as temporary:
        for split, annotations in splits.items():
            _write_split(temporary, split, annotations, link, progress)
    return Converted(found, splits, division)


def _write_split(
    out: Path, split: str, annotations: Annotations, link: bool, progress: bool
) -> None:
    paths = [os.path.abspath(path) for path in annotations.images.paths]
    parents = {os.path.dirname(path) for path in paths}
    below = os.path.commonpath(parents) if parents else ""
    names = [os.path.relpath(path, below).replace(os.sep, "/") for path in paths]
    document = annotations.ground_truth
    images = [
        entry | {"file_name": name} for entry, name in zip(document["images"], names, strict=True)
    ]
    file = out / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document | {"images": images}), encoding="utf-8")
    place = os.link if link else shutil.copyfile
    pairs = zip(paths, names, strict=True)
    for path, name in tqdm(pairs, split, len(paths), unit=" images", disable=not progress):
        target = out / split / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            place(path, target)
        except OSError as error:
            if not link:
                raise
            raise DataError(
                f"{path}: cannot be linked to {out.parent} ({error.strerror}). Leave out --link, "
                "or name a folder on the same disk."
            ) from error
