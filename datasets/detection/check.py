"""Check of a whole dataset: its content and all its faults. Needs no torch, to start quickly."""

import os
import textwrap
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data_errors import FaultKind, Faults
from ..errors import DataError
from ..images import ImageFile
from .annotations import Annotations
from .coco import official_title
from .image_checks import drop_missing, find_images, quarter_turn
from .layout import FormatName, Layout, ReadOptions, find_layout

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
        others: titles of further layouts that the folder has.
    """

    root: str
    layout: str
    quick: bool
    splits: dict[str, SplitReport] = field(default_factory=dict)
    unreferenced: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

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
        lines = [f"{self.root}: {self.layout}"]
        if self.others:
            lines.append(f"It looks like {', '.join(self.others)}, too; --layout chooses another.")
        lines += [*self._numbers(), *self._classes()]
        for name, report in self.splits.items():
            lines += _list_faults(f"{name}: in COCO's own release, left out", report.released)
            lines += _list_faults(f"{name}: faults", report.faults)
        if self.unreferenced:
            lines += ["", f"{len(self.unreferenced):,} images that no annotation file mentions"]
            lines += _list_messages(self.unreferenced, len(self.unreferenced))
        total = sum(report.faults.total for report in self.splits.values())
        depth = "images not opened" if self.quick else "every image decoded"
        lines += ["", f"{f'{total:,} faults' if total else 'No faults'} ({depth})."]
        if "val" not in self.splits:
            lines.append("No validation split: training needs --data.val_fraction=0.2 or the like.")
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
    layout: FormatName | None = None,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Check a detection dataset in any format without stopping at a fault.

    With ``quick`` images are not decoded. ``workers`` threads decode them; None is one for each
    core, at most 8. For ``layout``, and the `DataError` of a folder in no known layout, see
    `find_layout`.
    """
    found = find_layout(root, layout)
    report = CheckReport(str(found.root), found.title, quick, others=list(found.others))
    mentioned: dict[Path, set[str]] = {}
    categories: dict[int, str] | None = None
    for name in found.splits:
        parts = found.parts(name)
        files = " + ".join(_relative(part.annotations, found.root) for part in parts)
        split = SplitReport(files, Faults("skip"))
        report.splits[name] = split
        folders = [part.images for part in parts if part.images is not None]
        for folder in folders:
            mentioned.setdefault(folder, set())
        annotations = _read(found, name, categories, split)
        if annotations is None:
            continue
        categories = categories or annotations.categories
        split.count(annotations)
        paths = annotations.images.paths
        for folder in folders:
            mentioned[folder].update(map(os.path.normpath, paths))
        there = drop_missing(replace(annotations, faults=Faults("skip")))
        split.faults.extend(there.faults)
        if not quick:
            split.turned = _open_all(there, split.faults, workers, bar=name if progress else None)
    report.unreferenced = [
        str(path)
        for folder, paths in mentioned.items()
        for path in find_images(folder)
        if os.path.normpath(path) not in paths
    ]
    return report


def _read(
    layout: Layout, split: str, categories: dict[int, str] | None, report: SplitReport
) -> Annotations | None:
    """Read a split and report its faults; None if it cannot be read.

    The classes of the first split are demanded of files that do not declare theirs.
    """
    own = categories if layout.format == "voc" else None
    try:
        annotations = layout.read(split, own, ReadOptions("skip"))
    except DataError as error:
        report.faults.add(FaultKind.ANNOTATION_FILE, str(error))
        return None
    files = [part.annotations for part in layout.parts(split)]
    released = layout.format == "coco" and all(map(official_title, files))
    (report.released if released else report.faults).extend(annotations.faults)
    named = " + ".join(map(str, files))
    if categories is not None and annotations.categories != categories:
        message = f"{named}: declares other categories than the first split"
        report.faults.add(FaultKind.UNKNOWN_CATEGORY, message)
    for path, times in Counter(annotations.images.paths).items():
        if times > 1:
            message = f"{named}: {path} is declared {times} times"
            report.faults.add(FaultKind.DUPLICATE_IMAGE, message, times - 1)
    return annotations


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


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
