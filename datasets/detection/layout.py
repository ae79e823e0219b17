"""Recognizing the layout of a detection dataset, and reading its splits. Needs no torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..data_errors import OnError, Unlabeled
from ..errors import DataError
from .annotations import Annotations, choose, merge
from .coco import COCO_CATEGORIES, integers, official_title, read_coco
from .voc import VocPart, find_voc, read_voc
from .yolo import YoloPart, find_yolo, read_yolo, yolo_categories

SPLITS: dict[str, Sequence[str]] = {
    "train": ("train", "Train", "default"),
    "val": ("val", "valid", "validation", "Validation"),
    "test": ("test", "Test"),
}
"""The names of each split on disk; CVAT calls what belongs to none "default"."""

FormatName = Literal["coco", "yolo", "voc"]


@dataclass(frozen=True)
class Split:
    """The files of a split, or of a part of one; paths are relative to the data root, or absolute.

    Attributes:
        annotations: the annotation file, in COCO's format.
        images: the folder that its ``file_name`` entries are relative to.
        ids: a file of image ids to keep: a JSON list, or one on each line. None keeps all.
        exclude_ids: such a file of image ids to leave out.
    """

    annotations: str
    images: str
    ids: str | None = None
    exclude_ids: str | None = None


class ReadOptions(NamedTuple):
    """How annotations are read, in any format."""

    on_error: OnError = "raise"
    unlabeled: Unlabeled = "error"
    ignore_difficult: bool = True
    """Objects that VOC calls "difficult" are regions to ignore."""
    voc_classes: bool | None = None
    """Whether the classes of VOC files are VOC's twenty; see `read_voc`."""


class Part(NamedTuple):
    """A part of a split for messages: its annotations and its folder of images, if it has one."""

    annotations: Path
    images: Path | None


Splits = dict[str, list[Any]]
"""Split -> its parts: each a `Split`, a `VocPart` or a `YoloPart`."""


class Format(NamedTuple):
    """How datasets of one format are found and read."""

    find: Callable[[Path, Mapping[str, Sequence[str]]], list[tuple[str, Splits]]]
    """Returns the title and the splits of each layout that is there."""
    read: Callable[[Path, list[Any], dict[int, str] | None, ReadOptions], Annotations]
    describe: Callable[[Path, Any], Part]
    known_categories: Callable[[Path, list[Any]], dict[int, str] | None]
    """Returns the classes if they are known before the annotations are read."""
    places: Sequence[str]
    """What is looked for."""


class CocoLayout(NamedTuple):
    """Names of folders and files relative to the root, with ``{split}`` for the split."""

    title: str
    annotations: str
    """The annotation file; one without a split is for training."""
    images: tuple[str, ...]
    """Image folders, of which the first that exists is used."""

    def find(self, root: Path, names: Mapping[str, Sequence[str]]) -> Splits:
        """Return the splits that exist; ``names`` are those of each on disk."""
        found: Splits = {}
        for split, aliases in names.items() if "{split}" in self.annotations else [("train", [""])]:
            for alias in aliases:
                annotations = self.annotations.format(split=alias)
                if split not in found and (root / annotations).is_file():
                    folders = [folder.format(split=alias) for folder in self.images]
                    there = [folder for folder in folders if (root / folder).is_dir()]
                    found[split] = [Split(annotations, (there or folders)[0])]
        return found


COCO_LAYOUTS = (
    *(
        CocoLayout(
            f"COCO {year}",
            f"annotations/instances_{{split}}{year}.json",
            (f"{{split}}{year}", f"images/{{split}}{year}"),
        )
        for year in (2017, 2014)
    ),
    CocoLayout(
        "COCO without a year",
        "annotations/instances_{split}.json",
        ("{split}", "images/{split}", "images"),
    ),
    CocoLayout(
        "COCO, annotations by split",
        "annotations/{split}.json",
        ("images/{split}", "{split}", "images"),
    ),
    CocoLayout("COCO of Roboflow", "{split}/_annotations.coco.json", ("{split}",)),
    CocoLayout("COCO of Roboflow, one folder", "_annotations.coco.json", (".",)),
    CocoLayout("COCO of Label Studio", "result.json", ("images", ".")),
    CocoLayout("COCO, one file", "annotations.json", ("images", ".")),
)
"""Known layouts in COCO's format; the first with an existing split is used."""


def _find_coco(root: Path, names: Mapping[str, Sequence[str]]) -> list[tuple[str, Splits]]:
    found = [(layout.title, layout.find(root, names)) for layout in COCO_LAYOUTS]
    return [(title, splits) for title, splits in found if splits]


def _read_coco_parts(
    root: Path, parts: list[Split], categories: dict[int, str] | None, options: ReadOptions
) -> Annotations:
    """Read the parts of a split; see `read_coco`, `choose` and `merge` for what is an error."""
    read: list[Annotations] = []
    for part in parts:
        if not (root / part.annotations).is_file():
            raise DataError(
                f"{root / part.annotations}: no such annotation file. Check the data root; COCO "
                f"comes with `mobilevision data download coco --root {root}`. To train without any "
                "download, run `lightning fit -c configs/quickstart.yaml`."
            )
        annotations = read_coco(
            root / part.annotations, root / part.images, categories, options.on_error
        )
        for listing, keep in ((part.ids, True), (part.exclude_ids, False)):
            if listing is not None:
                ids = read_ids(root / listing)
                annotations = choose(annotations, ids, str(root / listing), keep=keep)
        read.append(annotations)
    return merge(read)


def _official_categories(root: Path, parts: list[Split]) -> dict[int, str] | None:
    # COCO's own files take long to read.
    return COCO_CATEGORIES if official_title(root / parts[0].annotations) else None


def _find_voc(root: Path, names: Mapping[str, Sequence[str]]) -> list[tuple[str, Splits]]:
    splits: Splits = {**find_voc(root, names)}
    return [("Pascal VOC", splits)] if splits else []


def _read_voc_parts(
    root: Path, parts: list[VocPart], categories: dict[int, str] | None, options: ReadOptions
) -> Annotations:
    del root
    return read_voc(
        parts, categories, options.on_error, ignore_difficult=options.ignore_difficult,
        voc_classes=options.voc_classes, unlabeled=options.unlabeled,
    )  # fmt: skip


def _describe_voc(root: Path, part: VocPart) -> Part:
    del root
    # Without an image set, images that no file mentions are faults.
    return Part(part.annotations, None if part.stems is None else part.images)


def _find_yolo(root: Path, names: Mapping[str, Sequence[str]]) -> list[tuple[str, Splits]]:
    splits: Splits = {**find_yolo(root, names)}
    if not splits:
        return []
    file = next(iter(splits.values()))[0].classes.file
    return [(f"YOLO ({file.name})", splits)]


def _read_yolo_parts(
    root: Path, parts: list[YoloPart], categories: dict[int, str] | None, options: ReadOptions
) -> Annotations:
    del root
    return read_yolo(parts, categories, options.on_error, options.unlabeled)


FORMATS: dict[FormatName, Format] = {
    "coco": Format(
        _find_coco, _read_coco_parts,
        lambda root, part: Part(root / part.annotations, root / part.images),
        _official_categories, [layout.annotations for layout in COCO_LAYOUTS],
    ),
    "yolo": Format(
        _find_yolo, _read_yolo_parts,
        # Images without labels are faults, so none is unknown.
        lambda _, part: Part(part.source, None),
        lambda _, parts: yolo_categories(parts), ["data.yaml", "obj.data", "classes.txt"],
    ),
    "voc": Format(
        _find_voc, _read_voc_parts, _describe_voc, lambda _, __: None,
        ["ImageSets/Main/{split}.txt", "{split}/*.xml", "Annotations/*.xml", "*.xml"],
    ),
}  # fmt: skip
"""The formats, in the order in which they are looked for."""


@dataclass(frozen=True)
class Layout:
    """A dataset whose files are known, in any format.

    Attributes:
        root: its folder.
        title: the layout in messages.
        format: key of `FORMATS`.
        splits: split -> its parts.
        others: titles of further layouts that the folder has, too.
    """

    root: Path
    title: str
    format: FormatName
    splits: Splits
    others: tuple[str, ...] = ()

    def read(
        self,
        split: str,
        categories: dict[int, str] | None = None,
        options: ReadOptions | None = None,
    ) -> Annotations:
        """Read a split; ``categories`` are those to use, None takes those of the split.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        read = FORMATS[self.format].read
        return read(self.root, self.splits[split], categories, options or ReadOptions())

    def known_categories(self) -> dict[int, str] | None:
        """Return the classes if they are known before the annotations are read."""
        first = next(iter(self.splits.values()))
        return FORMATS[self.format].known_categories(self.root, first)

    def parts(self, split: str) -> list[Part]:
        """Return the files of a split, for messages."""
        return [FORMATS[self.format].describe(self.root, part) for part in self.splits[split]]

    def __str__(self) -> str:
        text = f"{self.root}: layout {self.title}; splits {', '.join(self.splits)}"
        if self.others:
            text += (
                f". It looks like {', '.join(self.others)}, too: data.layout=coco, yolo or voc, or "
                "the options data.train and data.val, choose another"
            )
        return text


def named_layout(
    root: str | Path,
    places: Mapping[str, Split | list[Split] | str | None],
    layout: FormatName | None = None,
) -> Layout:
    """Return the layout of splits whose files are given, or find it; see `find_layout`."""
    names = {split: place for split, place in places.items() if isinstance(place, str)}
    files: Splits = {
        split: [place] if isinstance(place, Split) else list(place)
        for split, place in places.items()
        if place and not isinstance(place, str)
    }
    if not files:
        return find_layout(root, layout, names)
    if names:
        raise DataError(
            f"data.{next(iter(names))} is a name and data.{next(iter(files))} files: give names of "
            "splits alone, or the files (annotations, images) of each."
        )
    return Layout(Path(root), "COCO (as named in the options)", "coco", files)


def find_layout(
    root: str | Path,
    layout: FormatName | None = None,
    names: Mapping[str, str | None] | None = None,
) -> Layout:
    """Recognize the layout of a dataset, in the order of `FORMATS`.

    Args:
        root: the folder; or a YAML file of YOLO's.
        layout: the format, if the folder has several.
        names: split -> its name on disk, if it is not a usual one of `SPLITS`.

    Raises:
        DataError: the folder does not exist, has no known layout, or a file that describes it is
            faulty.
    """
    root = Path(root)
    if layout not in (None, *FORMATS):
        raise DataError(f"layout is {layout!r}; choose {', '.join(FORMATS)} or null.")
    matches, problems = _matches(root, layout, names or {})
    if matches:
        key, title, splits = matches[0]
        folder = root if root.is_dir() else root.parent
        return Layout(folder, title, key, splits, tuple(other for _, other, _ in matches[1:]))
    if problems:
        raise problems[0]
    raise DataError(_unknown(root, layout, names or {}))


def _chosen(layout: FormatName | None) -> list[FormatName]:
    return list(FORMATS) if layout is None else [layout]


def _matches(
    root: Path, layout: FormatName | None, names: Mapping[str, str | None]
) -> tuple[list[tuple[FormatName, str, Splits]], list[DataError]]:
    """Return the format, the title and the splits of each layout, and what was faulty."""
    given = {split: (name,) for split, name in names.items() if name}
    matches: list[tuple[FormatName, str, Splits]] = []
    problems: list[DataError] = []
    for key in _chosen(layout):
        try:
            found = FORMATS[key].find(root, {**SPLITS, **given})
        except DataError as error:
            problems.append(error)
            continue
        for title, splits in found:
            if set(given) <= set(splits):
                matches.append((key, title, splits))
    return matches, problems


_SHOWN = 10


def _unknown(root: Path, layout: FormatName | None, names: Mapping[str, str | None]) -> str:
    """Describe a folder without a known layout, and what can be done."""
    places = [place for key in _chosen(layout) for place in FORMATS[key].places]
    wanted = [name for name in names.values() if name]
    alias = " or ".join(wanted) if wanted else "train, val, ..."
    problem = "not a folder" if root.exists() else "no such folder"
    if root.is_dir():
        problem = "has no annotations in a known place"
    text = f"{root.absolute()}: {problem}; looked for {', '.join(places)} ({{split}} is {alias})."
    if root.is_dir():
        entries = sorted(root.iterdir())
        shown = [path.name + "/" * path.is_dir() for path in entries[:_SHOWN]]
        more = f" and {len(entries) - _SHOWN:,} more" if len(entries) > _SHOWN else ""
        text += f" The folder holds {', '.join(shown) + more or 'nothing'}."
        for folder in filter(Path.is_dir, entries[:_SHOWN]):
            below = _matches(folder, layout, names)[0]
            if below:
                return f"{text} {folder} looks like {below[0][1]}: give --data.root={folder}."
        if next(root.glob("labels/**/*.txt"), None) is not None:
            return (
                f"{text} YOLO's labels are there, but no data.yaml (or classes.txt) names classes."
            )
    return (
        f"{text} docs/data.md shows every layout. Files in COCO's format can be named with the "
        "options data.train and data.val (annotations, images); COCO itself comes with "
        f"`mobilevision data download coco --root {root}`. To train without any download, run "
        "`lightning fit -c configs/quickstart.yaml`."
    )


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
