"""Layouts of datasets in COCO's format, and reading of their splits. Needs no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data_errors import OnError
from ..errors import DataError
from .annotations import Annotations, choose, merge
from .coco import integers, read_coco

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The names of each split on disk."""


@dataclass(frozen=True)
class Split:
    """The files of a split, or of a part of one; paths are relative to the data root, or absolute.

    Attributes:
        annotations: the annotation file.
        images: the folder that its ``file_name`` entries are relative to.
        ids: a file of image ids to keep: a JSON list, or one on each line. None keeps all.
        exclude_ids: such a file of image ids to leave out.
    """

    annotations: str
    images: str
    ids: str | None = None
    exclude_ids: str | None = None


@dataclass(frozen=True)
class Layout:
    """Names of folders and files relative to the root, with ``{split}`` for the split.

    Attributes:
        title: its name in messages.
        annotations: the annotation file.
        images: image folders, of which the first that exists is used.
    """

    title: str
    annotations: str
    images: tuple[str, ...]

    def find(self, root: Path) -> dict[str, Split]:
        """Return the splits (train, val, test) that exist."""
        found: dict[str, Split] = {}
        for split, aliases in SPLITS.items():
            for alias in aliases:
                annotations = self.annotations.format(split=alias)
                if split not in found and (root / annotations).is_file():
                    folders = [folder.format(split=alias) for folder in self.images]
                    there = [folder for folder in folders if (root / folder).is_dir()]
                    found[split] = Split(annotations, (there or folders)[0])
        return found


LAYOUTS = (
    *(
        Layout(
            f"COCO {year}",
            f"annotations/instances_{{split}}{year}.json",
            (f"{{split}}{year}", f"images/{{split}}{year}"),
        )
        for year in (2017, 2014)
    ),
    Layout(
        "COCO without a year",
        "annotations/instances_{split}.json",
        ("{split}", "images/{split}", "images"),
    ),
    Layout(
        "annotations by split",
        "annotations/{split}.json",
        ("images/{split}", "{split}", "images"),
    ),
    Layout("Roboflow", "{split}/_annotations.coco.json", ("{split}",)),
)
"""Known layouts; the first with an existing split is used."""


def find_layout(root: Path) -> tuple[str, dict[str, Split]]:
    """Recognize the layout of a dataset; returns its title and the splits, at least one.

    Raises:
        DataError: the folder does not exist or has no known layout.
    """
    for layout in LAYOUTS:
        splits = layout.find(root)
        if splits:
            return layout.title, splits
    problem = "has no annotation file in a known place" if root.is_dir() else "no such folder"
    known = ", ".join(layout.annotations for layout in LAYOUTS)
    raise DataError(
        f"{root.absolute()}: {problem}; looked for {known} ({{split}} is train or val). "
        "Name the files with the options data.train and data.val (annotations, images), or get "
        f"COCO with `mobilevision data download coco --root {root}`. To train without any "
        "download, run `lightning fit -c configs/quickstart.yaml`."
    )


def read_split(
    root: Path,
    parts: Sequence[Split],
    categories: dict[int, str] | None = None,
    on_error: OnError = "raise",
) -> Annotations:
    """Read a split that may consist of several parts.

    Raises:
        DataError: a file is absent or faulty: see `read_coco`, `choose` and `merge`.
    """
    read: list[Annotations] = []
    for part in parts:
        if not (root / part.annotations).is_file():
            raise DataError(
                f"{root / part.annotations}: no such annotation file. Check the data root; COCO "
                f"comes with `mobilevision data download coco --root {root}`. To train without any "
                "download, run `lightning fit -c configs/quickstart.yaml`."
            )
        annotations = read_coco(
            root / part.annotations, root / part.images, categories, on_error=on_error
        )
        for listing, keep in ((part.ids, True), (part.exclude_ids, False)):
            if listing is not None:
                ids = read_ids(root / listing)
                annotations = choose(annotations, ids, str(root / listing), keep=keep)
        read.append(annotations)
    return merge(read)


def read_ids(file: Path) -> np.ndarray:
    """Read image ids (N,) int64, unique and rising: a JSON list, or one integer on each line.

    Raises:
        DataError: the file is absent or holds anything else.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
        values = json.loads(text) if text.startswith("[") else list(map(int, text.split()))
        ids = integers(values)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file of image ids. Check the path.") from None
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{file}: not a file of image ids ({error}). Write one integer on each line."
        ) from error
    if ids is None or not ids.size:
        raise DataError(f"{file}: holds no image ids. Write one integer on each line.")
    return np.unique(ids)
