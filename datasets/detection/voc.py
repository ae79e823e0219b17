"""Reading datasets in Pascal VOC's format: an XML file for each image.

VOC counts pixels from 1 and its corners lie inside the box (Everingham et al., "The PASCAL VOC2012
Development Kit", section on annotation): a box that covers the first pixel alone is (1, 1, 1, 1).
Here it becomes (xmin - 1, ymin - 1, xmax, ymax). Boxes of tools that count from 0 become one pixel
too large to the left and the top, which is within the tolerance. Needs no torch.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from ..data_errors import FaultKind, Faults, OnError, Unlabeled
from ..errors import DataError
from ..files import read_text
from ..images import ImageFile
from .annotations import Annotations, BoxTable, ImageTable, check_boxes
from .image_checks import IMAGE_SUFFIXES, hidden

# fmt: off
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
"""The twenty classes of VOC 2007 to 2012, with category ids from 1 to 20."""

_CLASS_FLAG = re.compile(r"\s+(-1|0|1)$")
_DECLARED_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["'][^>]*\?>""")
_XML = frozenset({".xml"})
_XML_FOLDERS = ("Annotations", "annotations", "")
_IS_VOC = re.compile(r"\bVOC ?20\d\d\b")
"""Matches the element "database" of VOC's own files, such as "The VOC2007 Database"."""
_IMAGE_FOLDERS = ("JPEGImages", "images", "")


@dataclass(frozen=True)
class VocPart:
    """Folders of XML files and their images; ``stems`` are file names without extension.

    Without stems all XML files are read.
    """

    annotations: Path
    images: Path
    stems: tuple[str, ...] | None = None


class VocObject(NamedTuple):
    """One object of an XML file."""

    name: str
    xyxy: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels, counted from 0, the last two exclusive."""
    difficult: bool


class VocImage(NamedTuple):
    """The content of an XML file."""

    file: Path
    file_name: str
    """Name of the image in the XML; may be empty."""
    size_hw: tuple[int, int] | None
    """None if it is not stated (some tools write 0)."""
    objects: list[VocObject]
    is_voc: bool
    """True if the file names Pascal VOC as its source, as those of 2007 to 2012 do."""


def find_voc(root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, list[VocPart]]:
    """Find the splits of a dataset by their names, split -> possible names on disk; maybe none.

    ``ImageSets/Main/<name>.txt`` in the root or in its ``VOC*`` folders comes first, then a folder
    of that name with XML files. Where there is neither, all XML files of the root are for training.
    """
    found = {split: _find_split(root, aliases) for split, aliases in names.items()}
    found = {split: parts for split, parts in found.items() if parts}
    if not found:
        whole = _xml_folder(root)
        found = {"train": [whole]} if whole else {}
    return found


def _find_split(root: Path, aliases: Sequence[str]) -> list[VocPart]:
    for alias in aliases:
        parts: list[VocPart] = []
        for release in (root, *sorted(root.glob("VOC*"))):
            listing = release / "ImageSets" / "Main" / f"{alias}.txt"
            if listing.is_file():
                files = release / "Annotations"
                parts.append(VocPart(files, release / "JPEGImages", _read_stems(listing, files)))
        whole = None if parts else _xml_folder(root / alias)
        if whole is not None:
            parts.append(whole)
        if parts:
            return parts
    return []


def _xml_folder(folder: Path) -> VocPart | None:
    """Return all XML files in a folder or in its ``Annotations``; None if there are none."""
    for name in _XML_FOLDERS:
        if _by_stem(folder / name, _XML):
            places = [folder / images for images in _IMAGE_FOLDERS]
            return VocPart(folder / name, next(path for path in places if path.is_dir()))
    return None


def _read_stems(listing: Path, annotations: Path) -> tuple[str, ...]:
    """Read the names of an image set, without extensions.

    The sets of one class have 1, -1 or 0 behind each name. Names may have spaces, so a number is
    removed only if there is no file of the whole name; the same holds for extensions.
    """
    lines = read_text(listing, "image set", "Write one name on each line, in UTF-8.").splitlines()
    there = _by_stem(annotations, _XML, below=True)
    return tuple(_stem(line.strip(), there) for line in lines if line.strip())


def _stem(line: str, there: Collection[str]) -> str:
    name = _CLASS_FLAG.sub("", line)
    shorter = (name.removesuffix(Path(name).suffix) for name in (line, name))
    return next((each for each in (line, name, *shorter) if each in there), name)


def read_voc(
    parts: Sequence[VocPart],
    categories: dict[int, str] | None = None,
    on_error: OnError = "raise",
    *,
    ignore_difficult: bool = True,
    voc_classes: bool | None = None,
    unlabeled: Unlabeled = "error",
) -> Annotations:
    """Read XML files. The images are opened only if the XML does not state their size.

    Images and boxes are numbered from 1 in the order of the files; areas are those of the boxes.

    Args:
        parts: the files.
        categories: id -> name; None takes VOC's twenty or the names that occur, sorted, from id 1.
        on_error: see `OnError`.
        ignore_difficult: "difficult" objects become regions to ignore (``crowd``).
        voc_classes: whether the classes are VOC's twenty if ``categories`` is None. None uses them
            only if every file names VOC as its source: a dataset of cats alone has one class.
        unlabeled: see `Unlabeled`; images that an image set does not name are none of the split's.

    Raises:
        DataError: there is nothing to read, or something is faulty under ``on_error="raise"``.
    """
    faults = Faults(on_error)
    read: list[VocImage] = []
    paths: list[Path] = []
    names: list[str] = []
    sizes_hw: list[tuple[int, int]] = []
    for part in parts:
        for image, path in _read_part(part, faults, unlabeled):
            size_hw = image.size_hw or _measure(path, faults)
            if size_hw is not None:
                read.append(image)
                paths.append(path)
                names.append(path.relative_to(part.images).as_posix())
                sizes_hw.append(size_hw)
    if not read:
        raise DataError(f"{parts[0].annotations}: no XML file that can be read. Check the folder.")
    table = ImageTable(
        ids=np.arange(1, len(read) + 1),
        file_names=np.array(names, dtype=object),
        paths=np.array([str(path) for path in paths], dtype=object),
        sizes_hw=np.array(sizes_hw, dtype=np.int64).reshape(-1, 2),
    )
    categories = categories or _categories(read, voc_classes)
    boxes, owners = _read_objects(read, table, categories, faults)
    if not ignore_difficult:
        boxes = boxes._replace(crowd=np.zeros_like(boxes.crowd))
    title = " + ".join("/".join(part.annotations.resolve().parts[-2:]) for part in parts)
    return Annotations.build(title, categories, table, boxes, owners=owners, faults=faults)


def _read_part(part: VocPart, faults: Faults, unlabeled: Unlabeled) -> list[tuple[VocImage, Path]]:
    """Read the XML files of a part, and find the image of each; the unlabeled ones have no XML."""
    below = part.stems is not None  # names of image sets may have folders
    images = _by_stem(part.images, IMAGE_SUFFIXES, below)
    files = _by_stem(part.annotations, _XML, below)
    stems = list(files) if part.stems is None else part.stems
    read: list[tuple[VocImage, Path]] = []
    for stem in stems:
        if stem in files:
            try:
                image = read_voc_file(files[stem])
            except DataError as error:
                faults.add(FaultKind.MALFORMED, str(error))
                continue
            named = Path(stem).parent / (image.file_name or f"{files[stem].stem}.jpg")
            read.append((image, images.get(stem, part.images / named)))
    if part.stems is None:
        labeled = {path for _, path in read} | {images.get(stem) for stem in files}
        without = [path for path in images.values() if path not in labeled]
    else:
        without = [images[stem] for stem in stems if stem not in files and stem in images]
        absent = [stem for stem in stems if stem not in files and stem not in images]
        faults.add_where(
            FaultKind.UNKNOWN_IMAGE,
            np.ones(len(absent), dtype=bool),
            lambda row: (
                f"{part.annotations / absent[row]}.xml: the image set names it, but there "
                "is no such file"
            ),
        )
    if faults.add_unlabeled(list(map(str, without)), len(read) + len(without), unlabeled):
        read += [(VocImage(path, path.name, None, [], is_voc=True), path) for path in without]
    return read


def _by_stem(folder: Path, suffixes: Collection[str], below: bool = False) -> dict[str, Path]:
    """Return name without suffix -> file, of the files in a folder, or also of those below it."""
    if not folder.is_dir():
        return {}
    found = sorted(folder.rglob("*") if below else folder.iterdir())
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in found
        if path.suffix.lower() in suffixes and not hidden(path, folder)
    }


def _measure(path: Path, faults: Faults) -> tuple[int, int] | None:
    try:
        return ImageFile(path).size_hw
    except DataError as error:
        faults.add(FaultKind.UNREADABLE, str(error))
        return None


def _categories(read: list[VocImage], voc_classes: bool | None) -> dict[int, str]:
    names = {item.name for image in read for item in image.objects}
    if voc_classes is None:
        voc_classes = names <= set(VOC_NAMES) and all(image.is_voc for image in read)
    if not names and not voc_classes:
        raise DataError(f"{read[0].file.parent}: no objects, so no classes. Give the categories.")
    ordered = VOC_NAMES if voc_classes else sorted(names)
    return dict(enumerate(ordered, start=1))


def _read_objects(
    read: list[VocImage], table: ImageTable, categories: dict[int, str], faults: Faults
) -> tuple[BoxTable, np.ndarray]:
    items = [item for image in read for item in image.objects]
    owners = np.repeat(np.arange(len(read)), [len(image.objects) for image in read])
    labels_by_name = {name: label for label, name in enumerate(categories.values())}
    labels = np.array([labels_by_name.get(item.name, -1) for item in items], dtype=np.int64)
    xyxy = np.array([item.xyxy for item in items], dtype=np.float64).reshape(-1, 4)
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    numbers = np.array([i for image in read for i in range(1, len(image.objects) + 1)], dtype=int)

    def where(row: int) -> str:
        return f"{read[owners[row]].file}: object {numbers[row]} ({items[row].name})"

    faults.add_where(
        FaultKind.UNKNOWN_CATEGORY,
        labels < 0,
        lambda row: f"{where(row)} is of none of the {len(categories)} classes",
    )
    clipped, right = check_boxes(xywh, table.sizes_hw[owners], faults, where)
    right &= labels >= 0
    boxes = BoxTable(
        ids=np.arange(1, len(items) + 1),
        xywh=xywh,
        xyxy=clipped,
        labels=labels,
        crowd=np.array([item.difficult for item in items], dtype=bool),
        areas=xywh[:, 2] * xywh[:, 3],
    )
    return boxes.take(right), owners[right]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document type definitions, with which entities that expand without end begin."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        del pubid, system
        raise DataError(f"declares a document type ({name}), which VOC files do not need")


def read_voc_file(file: Path) -> VocImage:
    """Parse one XML file.

    Raises:
        DataError: it is absent, not XML, has a document type definition, or an incomplete object.
    """
    try:
        tree = _parse(file.read_bytes())
        size = (_number(tree, "size/height", "0"), _number(tree, "size/width", "0"))
        return VocImage(
            file=file,
            file_name=Path(tree.findtext("filename", "").strip().replace("\\", "/")).name,
            size_hw=(int(size[0]), int(size[1])) if min(size) >= 1 else None,
            objects=[_object(element) for element in tree.iterfind("object")],
            is_voc=_IS_VOC.search(tree.findtext("source/database", "")) is not None,
        )
    except FileNotFoundError:
        raise DataError(f"{file}: no such annotation file. Check the path.") from None
    except (OSError, ElementTree.ParseError, LookupError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: {error}. {FaultKind.MALFORMED.fix}") from error


def _parse(content: bytes) -> ElementTree.Element:
    """Parse an XML file, also in encodings that Python knows and the XML parser does not."""
    try:
        return ElementTree.XML(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (LookupError, ValueError) as error:
        declared = _DECLARED_ENCODING.match(content)
        if declared is None or isinstance(error, ElementTree.ParseError):
            raise
        text = content[declared.end() :].decode(declared[1].decode())
        return ElementTree.XML(text, ElementTree.XMLParser(target=_NoDoctype()))


def _object(element: ElementTree.Element) -> VocObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError('an object lacks its "name"')
    xmin, ymin, xmax, ymax = (
        _number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    stated = (element.findtext("difficult") or "").strip()
    # Several tools write nothing or "Unspecified" for what is not difficult.
    difficult = stated.casefold() not in ("", "unspecified") and _number(element, "difficult") == 1
    return VocObject(name, (xmin - 1, ymin - 1, xmax, ymax), difficult)


def _number(element: ElementTree.Element, path: str, default: str | None = None) -> float:
    text = element.findtext(path, default)
    if text is None:
        raise ValueError(f'an object lacks "{path}"')
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'"{path}" is {text!r}, not a number') from None
