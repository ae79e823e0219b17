"""Looking a whole data set over: what is in it, and everything that is wrong with it.

Nothing here needs torch, so that the check starts at once.
"""

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
from .layout import SPLITS, Split, find_layout
from .voc import VocPart, find_voc_split, read_voc

_SHOWN = 10
"""Messages of each kind, and file names, that the text shows; `as_dict` has more."""
_WIDTH = 80


@dataclass
class SplitReport:
    """What the check found in one split.

    Attributes:
        file: the annotation file.
        faults: everything that is wrong.
        released: faulty entries of COCO's own releases, which nobody can mend; no fault.
        images, boxes, crowd, empty: numbers of images, of boxes, of crowd regions among the boxes,
            and of images without boxes.
        sizes_hw: the least and the greatest height and width in pixels, None without images.
        per_class: name -> number of boxes, in class order.
        turned: images whose boxes were drawn before EXIF rotation and are turned with it.
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
        """Fill in the numbers."""
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
        """For JSON."""
        plain = {key: value for key, value in vars(self).items() if not isinstance(value, Faults)}
        return plain | {"faults": self.faults.as_dict(), "released": self.released.as_dict()}


@dataclass
class CheckReport:
    """What the check of a data set found.

    Attributes:
        root: its folder.
        layout: how its files are laid out.
        quick: True where no image was opened.
        splits: "train", "val", "test" -> report.
        unreferenced: images in the image folders that no annotation file mentions; no fault.
    """

    root: str
    layout: str
    quick: bool
    splits: dict[str, SplitReport] = field(default_factory=dict)
    unreferenced: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no faults."""
        return not any(report.faults.total for report in self.splits.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
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
        depth = "pictures not opened" if self.quick else "every image decoded"
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
    root: str | Path,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Check a detection data set in COCO's or Pascal VOC's format, and do not stop at a fault.

    Args:
        root: its folder, in a layout that a data module finds by itself.
        quick: only look for the images, do not open them.
        workers: threads that decode images; None takes one for each core, at most 8.
        progress: show a bar on standard error.

    Raises:
        DataError: there is no data set in the folder.
    """
    root = Path(root)
    layout, splits = _find_splits(root)
    report = CheckReport(str(root), layout, quick)
    mentioned: dict[str, set[str]] = {}
    categories: dict[int, str] | None = None
    for name, split in splits.items():
        part = SplitReport(split.file, Faults("skip"))
        report.splits[name] = part
        annotations = split.read(part)
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
        file: what messages call its annotations.
        images: its image folders, relative to the root or absolute.
        read: reads it without stopping; adds to the report what is faulty, and returns None where
            nothing can be read.
    """

    file: str
    images: list[str]
    read: Callable[[SplitReport], Annotations | None]


def _find_splits(root: Path) -> tuple[str, dict[str, _Split]]:
    """Recognise the layout, and say how each split is read.

    Raises:
        DataError: there is no data set in a known layout.
    """
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
    return layout, {
        name: _Split(split.annotations, [split.images], partial(_read, root, split))
        for name, split in splits.items()
    }


def _find_voc_splits(root: Path) -> dict[str, _Split]:
    found = {}
    categories: dict[int, str] = {}  # those of the first split, as training takes them
    for name in SPLITS:
        try:
            parts = find_voc_split(root, name)
        except DataError:
            continue
        folders = [str(part.images.absolute()) for part in parts]
        file = " + ".join(str(part.annotations.relative_to(root)) for part in parts)
        found[name] = _Split(file, folders, partial(_read_voc, parts, categories))
    return found


def _read_voc(
    parts: list[VocPart], categories: dict[int, str], report: SplitReport
) -> Annotations | None:
    try:
        annotations = read_voc(parts, categories or None, on_error="skip")
    except DataError as error:
        report.faults.add(FaultKind.ANNOTATION_FILE, str(error))
        return None
    categories.update(annotations.categories)
    report.faults.extend(annotations.faults)
    return annotations


def _read(root: Path, split: Split, report: SplitReport) -> Annotations | None:
    file = root / split.annotations
    try:
        annotations = read_coco(file, root / split.images, on_error="skip")
    except DataError as error:
        report.faults.add(FaultKind.ANNOTATION_FILE, str(error))
        return None
    (report.released if official_title(file) else report.faults).extend(annotations.faults)
    for name, times in Counter(annotations.images.file_names).items():
        if times > 1:
            message = f"{file}: {name} is declared {times} times"
            report.faults.add(FaultKind.DUPLICATE_IMAGE, message, times - 1)
    return annotations


def _open_all(
    annotations: Annotations, faults: Faults, workers: int | None, bar: str | None
) -> int:
    """Decode every image; returns in how many EXIF rotation turns the boxes."""
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
    """Image files in a folder and below it, in order of their names."""
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
    return [
        textwrap.fill(
            message,
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for message in shown
    ]
