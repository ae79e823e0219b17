"""Check of a whole dataset: its content and all its faults. Needs no torch, to start quickly."""

import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data_errors import FaultKind, Faults
from ..errors import DataError
from ..images import ImageFile
from .annotations import Annotations
from .coco import official_title, read_coco
from .image_checks import IMAGE_SUFFIXES, drop_missing, quarter_turn
from .layout import SPLITS, find_layout
from .voc import VocPart, find_voc_split, read_voc

_SHOWN = 10
"""Number of messages of each kind, and of file names, in the text; `as_dict` has more."""


@dataclass
class SplitReport:
    """The result of the check of one split.

    Attributes:
        file: the annotation file.
        faults: all faults.
        released: faulty entries of COCO's own releases, which users cannot correct; no faults.
        images, boxes, crowd, empty: numbers of images, of boxes, of crowd regions among the boxes,
            and of images without boxes.
        sizes_hw: the smallest and the largest height and width in pixels, None without images.
        per_class: name -> number of boxes, in class order.
        turned: number of images whose boxes were drawn before EXIF rotation.
    """

    file: str
    faults: Faults
    released: Faults = field(default_factory=lambda: Faults("skip"))
    images: int = 0
    boxes: int = 0
    crowd: int = 0
    empty: int = 0
    sizes_hw: tuple[tuple[int, int], tuple[int, int]] | None = None
    per_class: dict[str, int] = field(default_factory=dict)
    turned: int = 0

    def count(self, annotations: Annotations) -> None:
        """Set the numbers."""
        sizes, labels = annotations.images.sizes_hw, annotations.boxes.labels
        counts = np.bincount(labels, minlength=len(annotations.categories)).tolist()
        self.images = len(annotations)
        self.boxes = len(labels)
        self.crowd = int(annotations.boxes.crowd.sum())
        self.empty = int((np.diff(annotations.starts) == 0).sum())
        self.per_class = dict(zip(annotations.categories.values(), counts, strict=True))
        if len(sizes):
            least, most = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
            self.sizes_hw = ((least[0], least[1]), (most[0], most[1]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {key: value for key, value in vars(self).items() if not isinstance(value, Faults)}
        return plain | {"faults": self.faults.as_dict(), "released": self.released.as_dict()}


@dataclass
class CheckReport:
    """The result of the check of a dataset.

    Attributes:
        root: its folder.
        layout: the title of its layout.
        quick: True if no image was opened.
        splits: "train", "val", "test" -> report.
        unreferenced: images in the image folders that no annotation file mentions; no faults.
    """

    root: str
    layout: str
    quick: bool
    splits: dict[str, SplitReport] = field(default_factory=dict)
    unreferenced: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if there are no faults."""
        return not any(report.faults.total for report in self.splits.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return vars(self) | {
            "ok": self.ok,
            "splits": {name: report.as_dict() for name, report in self.splits.items()},
        }

    def __str__(self) -> str:
        """The report as text, 80 columns wide where paths allow."""
        lines = [f"{self.root}: {self.layout}", *self._numbers(), *self._classes()]
        for name, report in self.splits.items():
            lines += _list_faults(f"{name}: in COCO's own release, left out", report.released)
            lines += _list_faults(f"{name}: faults", report.faults)
        if self.unreferenced:
            lines += ["", f"{len(self.unreferenced):,} images that no annotation file mentions"]
            lines += _list_messages(self.unreferenced, len(self.unreferenced))
        total = sum(report.faults.total for report in self.splits.values())
        depth = "images not opened" if self.quick else "every image decoded"
        lines += ["", f"{f'{total:,} faults' if total else 'No faults'} ({depth})."]
        return "\n".join(lines)

    def _numbers(self) -> Iterable[str]:
        row = "{:10}{:>9}{:>10}{:>8}{:>8}{:>8}  {}".format
        yield "\n" + row(
            "", "images", "boxes", "crowd", "empty", "turned", "smallest, largest side"
        )
        for name, report in self.splits.items():
            sizes = (
                f"{min(report.sizes_hw[0])}, {max(report.sizes_hw[1])}" if report.sizes_hw else "-"
            )
            numbers = (report.images, report.boxes, report.crowd, report.empty, report.turned)
            yield row(name, *(f"{number:,}" for number in numbers), sizes)

    def _classes(self) -> Iterable[str]:
        total = Counter[str]()
        for report in self.splits.values():
            total.update(report.per_class)
        yield "\n" + f"{'boxes of class':40}" + "".join(f"{name:>10}" for name in self.splits)
        for name in sorted(total, key=lambda name: -total[name]):
            counts = [report.per_class.get(name, 0) for report in self.splits.values()]
            yield f"{name[:39]:40}" + "".join(f"{count:>10,}" for count in counts)


def check_dataset(
    root: str | Path, *, quick: bool = False, workers: int | None = None, progress: bool = True
) -> CheckReport:
    """Check a detection dataset in COCO's or Pascal VOC's format without stopping at a fault.

    With ``quick`` only the existence of images is checked. ``workers`` threads decode them;
    None is one for each core, at most 8. A folder in no layout that a data module recognizes is
    a `DataError`.
    """
    root = Path(root)
    layout, splits = _find_splits(root)
    report = CheckReport(str(root), layout, quick)
    mentioned: dict[str, set[str]] = {}
    categories: dict[int, str] | None = None
    for name, split in splits.items():
        part = SplitReport(split.file, Faults("skip"))
        report.splits[name] = part
        annotations = split.read_into(part)
        if annotations is None:
            for folder in split.images:
                mentioned.setdefault(folder, set())
            continue
        categories = categories or annotations.categories
        if annotations.categories != categories:
            part.faults.add(
                FaultKind.UNKNOWN_CATEGORY,
                f"{root / split.file}: declares other categories than the first split",
            )
        part.count(annotations)
        paths = annotations.images.paths
        for folder in split.images:
            mentioned.setdefault(folder, set()).update(map(os.path.normpath, paths))
        there = drop_missing(replace(annotations, faults=Faults("skip")))
        part.faults.extend(there.faults)
        if not quick:
            part.turned = _open_all(there, part.faults, workers, bar=name if progress else None)
    report.unreferenced = [
        str(path)
        for folder, paths in mentioned.items()
        for path in _images(root / folder)
        if os.path.normpath(path) not in paths
    ]
    return report


@dataclass
class _Split:
    """A split in any format.

    Attributes:
        file: name of its annotations in messages.
        images: its image folders, relative to the root or absolute.
        read: reads it with on_error="skip".
        coco_file: the annotation file, if it is in COCO's format.
    """

    file: str
    images: list[str]
    read: Callable[[], Annotations]
    coco_file: Path | None = None

    def read_into(self, report: SplitReport) -> Annotations | None:
        """Read it and report its faults; None if it cannot be read."""
        try:
            annotations = self.read()
        except DataError as error:
            report.faults.add(FaultKind.ANNOTATION_FILE, str(error))
            return None
        released = self.coco_file is not None and official_title(self.coco_file)
        (report.released if released else report.faults).extend(annotations.faults)
        if self.coco_file is not None:
            for name, times in Counter(annotations.images.file_names).items():
                if times > 1:
                    message = f"{self.coco_file}: {name} is declared {times} times"
                    report.faults.add(FaultKind.DUPLICATE_IMAGE, message, times - 1)
        return annotations


def _find_splits(root: Path) -> tuple[str, dict[str, _Split]]:
    """Recognize the layout, and prepare the reading of each split."""
    try:
        layout, splits = find_layout(root)
    except DataError as error:
        voc = _find_voc_splits(root)
        if voc:
            return "Pascal VOC", voc
        raise DataError(
            f"{error} Pascal VOC's layouts were looked for, too: ImageSets/Main/train.txt, or a "
            "folder for each split with XML files."
        ) from None
    found = {}
    for name, split in splits.items():
        file = root / split.annotations
        read = partial(read_coco, file, root / split.images, on_error="skip")
        found[name] = _Split(split.annotations, [split.images], read, file)
    return layout, found


def _find_voc_splits(root: Path) -> dict[str, _Split]:
    found = {}
    categories: dict[int, str] = {}  # those of the first split, as in training

    def read(parts: list[VocPart]) -> Annotations:
        annotations = read_voc(parts, categories or None, on_error="skip")
        categories.update(annotations.categories)
        return annotations

    for name in SPLITS:
        try:
            parts = find_voc_split(root, name)
        except DataError:
            continue
        folders = [str(part.images.absolute()) for part in parts]
        file = " + ".join(str(part.annotations.relative_to(root)) for part in parts)
        found[name] = _Split(file, folders, partial(read, parts))
    return found


def _open_all(
    annotations: Annotations, faults: Faults, workers: int | None, bar: str | None
) -> int:
    """Decode every image; returns the number of those whose boxes EXIF rotation turns."""
    images = annotations.images
    jobs = list(zip(images.paths, images.sizes_hw.tolist(), strict=True))
    turned = 0
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda job: _open(*job), jobs)
        for result in tqdm(results, bar, len(jobs), unit=" images", disable=bar is None):
            if isinstance(result, bool):
                turned += result
            else:
                faults.add(*result)
    return turned


def _open(path: str, declared_hw: list[int]) -> tuple[FaultKind, str] | bool:
    """Decode an image; returns its fault, or whether its boxes are turned."""
    image, kind = ImageFile(path), FaultKind.UNREADABLE
    try:
        image.read()
        kind = FaultKind.SIZE
        return quarter_turn(image, (declared_hw[0], declared_hw[1])) is not None
    except DataError as error:
        return kind, str(error)


def _images(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _list_faults(title: str, faults: Faults) -> list[str]:
    lines: list[str] = []
    for kind, count in faults.counts.items():
        lines += ["", f"{title}: {count:,} {kind.title}"]
        lines += _list_messages(faults.messages[kind], count)
    return lines


def _list_messages(messages: list[str], count: int) -> list[str]:
    shown = messages[:_SHOWN]
    if count > len(shown):
        shown = [*shown, f"... and {count - len(shown):,} more"]
    wrapper = textwrap.TextWrapper(80, "  ", "    ", break_long_words=False, break_on_hyphens=False)
    return [wrapper.fill(message) for message in shown]
