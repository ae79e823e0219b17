"""Reading datasets in YOLO's formats: a text file for each image, with one box on each line.

A line has the class, counted from 0, and the box's center, width and height as shares of the
image's (https://docs.ultralytics.com/datasets/detect/), or the corners of a polygon, whose
enclosing box is taken. ``data.yaml`` names the classes and the places of the splits; Darknet, and
CVAT's "YOLO 1.1", have ``obj.data`` and ``obj.names`` for it, Label Studio and LabelImg
``classes.txt`` alone. Category ids are one more than the numbers of the classes. Needs no torch.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from tqdm import tqdm

from ..data_errors import FaultKind, Faults, OnError, Unlabeled, data_log
from ..errors import DataError
from ..files import DRIVE, FileNames, read_text
from ..images import ImageFile
from .annotations import Annotations, BoxTable, ImageTable, check_boxes, first_occurrences
from .image_checks import find_images, hidden

_NAMES_FILES = ("classes.txt", "obj.names")
_BOX = 4
_LEAST_POLYGON = 6


class YoloClasses(NamedTuple):
    """What a dataset says of its classes."""

    file: Path
    names: dict[int, str]
    """Number of a class in the label files -> name."""
    keypoint_numbers: int = 0
    """Numbers that follow each box in datasets of poses."""


class YoloPart(NamedTuple):
    """A folder of images, or a text file that lists them; ``folder`` is that of the dataset."""

    source: Path
    folder: Path
    classes: YoloClasses


def find_yolo(root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, list[YoloPart]]:
    """Find the splits of a dataset; empty if nothing names YOLO's classes in the folder.

    Args:
        root: the folder, or its YAML file.
        names: split -> its possible names on disk.

    Raises:
        DataError: the file that names the classes is faulty, or names a training split that is not
            there.
    """
    folder = root if root.is_dir() else root.parent
    if (folder / "obj.data").is_file():
        file = folder / "obj.data"
        document = _read_darknet(file)
        names_file = _find(folder, document.get("names") or "obj.names")
        if names_file is None:
            raise DataError(f"{file}: there is no file {document.get('names')} of class names.")
        classes = YoloClasses(names_file, _listed_names(names_file))
        return _declared_splits(file, folder, document, classes, names)
    file = _yaml_file(root)
    if file is not None:
        document = _read_yaml(file)
        classes = YoloClasses(file, _names(file, document), _keypoint_numbers(file, document))
        base = _base(root, folder, str(document.get("path") or ""))
        if any(name in document for aliases in names.values() for name in aliases):
            return _declared_splits(file, base, document, classes, names)
        return _folder_splits(base, classes, names)
    for name in _NAMES_FILES:
        if (folder / name).is_file():
            classes = YoloClasses(folder / name, _listed_names(folder / name))
            return _folder_splits(folder, classes, names)
    return {}


def _base(root: Path, folder: Path, path: str) -> Path:
    """Return the folder of the dataset: ``path`` of the YAML file, if it is there.

    A path that leads out of the folder is followed only where the file was given, not the folder.
    """
    inside = root.is_file() or ".." not in Path(path).parts
    return folder / path if inside and (folder / path).is_dir() else folder


def _yaml_file(root: Path) -> Path | None:
    """Return the file that names the classes: ``data.yaml``, or the only YAML file that does."""
    if root.is_file():
        return root if root.suffix in (".yaml", ".yml") else None
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    files = sorted((*root.glob("*.yaml"), *root.glob("*.yml"))) if root.is_dir() else []
    named = [file for file in files if _names_classes(file)]
    if len(named) > 1:
        raise DataError(
            f"{root}: {', '.join(file.name for file in named)} all name classes. Give one of them "
            "as data.root."
        )
    return named[0] if named else None


def _names_classes(file: Path) -> bool:
    try:
        return "names" in _read_yaml(file)
    except DataError:
        return False


def _read_yaml(file: Path) -> dict[str, Any]:
    text = read_text(file, "YAML file")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not YAML that can be read ({error}). Correct it.") from error
    if not isinstance(document, dict):
        raise DataError(f'{file}: holds no keys; it should have "names", "train" and "val".')
    return document


def _names(file: Path, document: dict[str, Any]) -> dict[int, str]:
    """Return the class names, of a list or of an object from number to name."""
    given = document.get("names")
    if not isinstance(given, list | dict) or not given:
        raise DataError(f'{file}: "names" should be the list of class names, not {given!r}.')
    if isinstance(given, list):
        given = dict(enumerate(given))
    for number, name in given.items():
        if type(number) is not int or number < 0 or isinstance(name, bool | list | dict | None):
            raise DataError(
                f'{file}: "names" has {number!r}: {name!r}, wanted is a number from 0 on and a '
                "name; names such as yes, no and null need quotes."
            )
    names = {number: str(name) for number, name in sorted(given.items())}
    if document.get("nc", len(names)) != len(names):
        raise DataError(f'{file}: "nc" is {document["nc"]}, but "names" has {len(names)} names.')
    return _distinct(file, names)


def _listed_names(file: Path) -> dict[int, str]:
    lines = read_text(file, "list of class names").splitlines()
    names = {row: line.strip() for row, line in enumerate(lines) if line.strip()}
    if not names:
        raise DataError(f"{file}: names no classes. Write one name on each line.")
    return _distinct(file, names)


def _distinct(file: Path, names: dict[int, str]) -> dict[int, str]:
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise DataError(f"{file}: two classes are called {twice!r}. Give each a name of its own.")
    return names


def _keypoint_numbers(file: Path, document: dict[str, Any]) -> int:
    shape = document.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and {*map(type, shape)} == {int}):
        raise DataError(
            f'{file}: "kpt_shape" is {shape!r}, wanted is [number of keypoints, 2 or 3].'
        )
    return shape[0] * shape[1]


def _read_darknet(file: Path) -> dict[str, Any]:
    """Read ``key = value`` lines; Darknet's "valid" is found under "val" by its aliases."""
    lines = read_text(file, "file of keys and values").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def _declared_splits(
    file: Path,
    folder: Path,
    document: dict[str, Any],
    classes: YoloClasses,
    names: Mapping[str, Sequence[str]],
) -> dict[str, list[YoloPart]]:
    """Return the splits that a file declares.

    A split that is declared and not there is an error in training; exports declare others that the
    dataset does not have, which is said.
    """
    found: dict[str, list[YoloPart]] = {}
    for split, aliases in names.items():
        key = next((alias for alias in aliases if document.get(alias)), None)
        if key is None:
            continue
        entries = document[key] if isinstance(document[key], list) else [document[key]]
        sources = {str(entry): _find(folder, str(entry)) for entry in entries}
        absent = [entry for entry, source in sources.items() if source is None]
        if absent and (split == "train" or len(absent) < len(entries)):
            raise DataError(
                f"{file}: {key} is {', '.join(absent)}, which is not below {folder.absolute()}. "
                "Correct the path, or put the images there."
            )
        if absent:
            data_log.warning(f"{file}: {key} is {', '.join(absent)}, which is not there; left out")
            continue
        found[split] = [YoloPart(path, folder, classes) for path in sources.values() if path]
    return found


def _find(folder: Path, name: str) -> Path | None:
    """Find what a file names, relative to a folder; None if it is not there.

    Exports name ``../train/images`` or ``data/train.txt`` though the folder has no such parents, or
    an absolute path of another machine, whose last parts, two or more, are looked for. So a name
    never leads out of the folder unless it is absolute.
    """
    path = Path(name.replace("\\", "/"))
    if path.is_absolute() or DRIVE.match(path.as_posix()):
        parts = path.parts[1:]
        candidates = [path, *(folder.joinpath(*parts[row:]) for row in range(len(parts) - 1))]
    else:
        parts = [part for part in path.parts if part != ".."]
        candidates = [folder.joinpath(*parts)]
        if parts[:1] == ["data"]:
            candidates.append(folder.joinpath(*parts[1:]))
    return next((path for path in candidates if path.exists()), None)


def _folder_splits(
    folder: Path, classes: YoloClasses, names: Mapping[str, Sequence[str]]
) -> dict[str, list[YoloPart]]:
    """Return the splits of the usual folders; without any, all images are for training.

    Other formats have lists of classes, too, so that there has to be a label file.
    """
    found: dict[str, list[YoloPart]] = {}
    for split, aliases in names.items():
        places = (path for alias in aliases for path in (f"images/{alias}", f"{alias}/images"))
        there = next((folder / path for path in places if (folder / path).is_dir()), None)
        if there is not None:
            found[split] = [YoloPart(there, folder, classes)]
    if found:
        return found
    images = folder / "images" if (folder / "images").is_dir() else folder
    labeled = any(label_file(path).is_file() for path in find_images(images))
    return {"train": [YoloPart(images, folder, classes)]} if labeled else {}


def read_yolo(
    parts: Sequence[YoloPart],
    categories: dict[int, str] | None = None,
    on_error: OnError = "raise",
    unlabeled: Unlabeled = "error",
) -> Annotations:
    """Read label files, and the sizes of their images, whose headers are opened.

    Images and boxes are numbered from 1 in the order of the files, by name; areas are those of the
    boxes. An empty label file says that its image shows no object.

    Args:
        parts: the files, which name the same classes.
        categories: id -> name of the classes to read, in class order; boxes of other declared
            classes are set aside. None takes all, with ids from 1.
        on_error: see `OnError`.
        unlabeled: see `Unlabeled`.

    Raises:
        DataError: there are no images, or something is faulty under ``on_error="raise"``.
    """
    classes = parts[0].classes
    categories = categories or yolo_categories(parts)
    if not set(categories.values()) & set(classes.names.values()):
        raise DataError(
            f"{classes.file}: names none of the wanted classes {', '.join(categories.values())}, "
            f"but {', '.join(classes.names.values())}."
        )
    faults = Faults(on_error)
    files = _image_files(parts, faults)
    labels = [label_file(path) for path in files]
    _find_orphans(parts, labels, faults)
    files, labels = _labeled(files, labels, faults, unlabeled)
    files, labels, sizes_hw = _measure(files, labels, faults)
    table = ImageTable(
        ids=np.arange(1, len(files) + 1),
        file_names=np.array([_short_name(path, parts) for path in files], dtype=object),
        paths=np.array([str(path) for path in files], dtype=object),
        sizes_hw=sizes_hw,
    )
    boxes, owners = _read_boxes(labels, table, classes, faults)
    index = {name: label for label, name in enumerate(categories.values())}
    chosen = np.array([index.get(name, -1) for name in classes.names.values()], dtype=np.int64)
    boxes = boxes._replace(labels=chosen[boxes.labels])
    kept = boxes.labels >= 0
    title = " + ".join("/".join(part.source.resolve().parts[-2:]) for part in parts)
    annotations = Annotations.build(
        title, categories, table, boxes.take(kept), owners=owners[kept], faults=faults
    )
    return replace(annotations, set_aside=int((~kept).sum()))


def yolo_categories(parts: Sequence[YoloPart]) -> dict[int, str]:
    """Return id -> name of the classes of a dataset."""
    return {number + 1: name for number, name in parts[0].classes.names.items()}


def label_file(image: Path) -> Path:
    """Return the label file of an image.

    It lies beside the image, or in the folder that has ``labels`` in place of the last ``images``.
    """
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    if "images" not in parts[:-1]:
        return beside
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    apart = Path(*parts)
    return beside if beside.is_file() and not apart.is_file() else apart


def _image_files(parts: Sequence[YoloPart], faults: Faults) -> list[Path]:
    files: list[Path] = []
    for part in parts:
        files += find_images(part.source) if part.source.is_dir() else _listed(part, faults)
    first = first_occurrences(np.unique(list(map(str, files)), return_inverse=True)[1])
    faults.add_where(
        FaultKind.DUPLICATE_IMAGE, ~first, lambda row: f"{files[row]}: is listed twice"
    )
    files = [path for path, new in zip(files, first, strict=True) if new]
    if not files:
        raise DataError(f"{parts[0].source}: no images. Check the folder.")
    return files


def _listed(part: YoloPart, faults: Faults) -> list[Path]:
    """Return the images of a list; "./" is its own folder, and Darknet's "data/" the dataset's."""
    lines = read_text(part.source, "list of images").splitlines()
    darknet = not (part.folder / "data").is_dir()
    beside, below = FileNames(part.source.parent), FileNames(part.folder)
    paths: list[Path] = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        try:
            if name.startswith("./"):
                path = beside.find(name[2:])
            else:
                path = below.find(name.removeprefix("data/") if darknet else name)
        except ValueError as error:
            faults.add(FaultKind.MALFORMED, f"{part.source}, line {number}: the image {error}")
            continue
        if path.is_file():
            paths.append(path)
        else:
            message = f"{part.source}, line {number}: {path}: no such image"
            faults.add(FaultKind.MISSING, message)
    below.warn_of_foreign(part.source)
    return paths


def _find_orphans(parts: Sequence[YoloPart], labels: Sequence[Path], faults: Faults) -> None:
    """Report label files without an image, in folders that hold nothing else."""
    known = set(labels)
    for part in parts:
        folder = label_file(part.source / "image").parent
        if part.source.is_dir() and folder != part.source:
            found = sorted(path for path in folder.rglob("*.txt") if path.name not in _NAMES_FILES)
            orphans = [path for path in found if path not in known and not hidden(path, folder)]
            faults.add_where(
                FaultKind.UNKNOWN_IMAGE,
                np.ones(len(orphans), dtype=bool),
                lambda row, orphans=orphans: f"{orphans[row]}: there is no image of this name",
            )


def _labeled(
    files: list[Path], labels: list[Path], faults: Faults, unlabeled: Unlabeled
) -> tuple[list[Path], list[Path]]:
    """Leave out the images without a label file, unless they are background."""
    there = [path.is_file() for path in labels]
    without = [str(path) for path, labeled in zip(files, there, strict=True) if not labeled]
    if len(without) == len(files) and unlabeled != "background":
        raise DataError(
            f"{files[0].parent}: none of {len(files):,} images has a label file; looked for "
            f"{labels[0]}. {FaultKind.UNLABELED.fix}"
        )
    if faults.add_unlabeled(without, len(files), unlabeled):
        return files, labels
    rows = [row for row, labeled in enumerate(there) if labeled]
    return [files[row] for row in rows], [labels[row] for row in rows]


def _measure(
    files: list[Path], labels: list[Path], faults: Faults
) -> tuple[list[Path], list[Path], np.ndarray]:
    """Read the upright sizes (M, 2) int64, and leave out images that cannot be read."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(_size_hw, files)
        bar = tqdm(results, "sizes of images", len(files), delay=2, disable=None, leave=False)
        sizes = list(bar)
    good = []
    for row, size in enumerate(sizes):
        if isinstance(size, DataError):
            faults.add(FaultKind.UNREADABLE, str(size))
        else:
            good.append(row)
    sizes_hw = np.array([sizes[row] for row in good], dtype=np.int64).reshape(-1, 2)
    return [files[row] for row in good], [labels[row] for row in good], sizes_hw


def _size_hw(path: Path) -> tuple[int, int] | DataError:
    try:
        return ImageFile(path).size_hw
    except DataError as error:
        return error


def _short_name(path: Path, parts: Sequence[YoloPart]) -> str:
    """Return the path relative to the only folder of images, or to the dataset's."""
    folder = parts[0].source if len(parts) == 1 and parts[0].source.is_dir() else parts[0].folder
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _read_boxes(
    labels: Sequence[Path], images: ImageTable, classes: YoloClasses, faults: Faults
) -> tuple[BoxTable, np.ndarray]:
    """Return the boxes, with positions in ``classes.names`` as labels, and each one's image."""
    position = {number: label for label, number in enumerate(classes.names)}
    rows: list[tuple[float, ...]] = []
    owners: list[int] = []
    places: list[tuple[Path, int]] = []
    for owner, file in enumerate(labels):
        for number, line in _lines(file, faults):
            where = f"{file}, line {number}"
            try:
                label, box = parse_line(line, classes.keypoint_numbers)
            except ValueError as error:
                faults.add(FaultKind.MALFORMED, f"{where}: {error}")
                continue
            if label not in position:
                known = f"{classes.file} names {len(position)} classes from 0 on"
                faults.add(FaultKind.UNKNOWN_CATEGORY, f"{where}: class {label}, but {known}")
                continue
            rows.append((position[label], *box))
            owners.append(owner)
            places.append((file, number))
    table = np.array(rows, dtype=np.float64).reshape(-1, 1 + _BOX)
    sizes_hw = images.sizes_hw[owners].reshape(-1, 2)
    xywh = table[:, 1:] * np.tile(sizes_hw[:, ::-1], 2)
    xyxy, right = check_boxes(
        xywh, sizes_hw, faults, lambda row: "{}, line {}".format(*places[row])
    )
    boxes = BoxTable(
        ids=np.arange(1, len(rows) + 1),
        xywh=xywh,
        xyxy=xyxy,
        labels=table[:, 0].astype(np.int64),
        crowd=np.zeros(len(rows), dtype=bool),
        areas=xywh[:, 2] * xywh[:, 3],
    )
    return boxes.take(right), np.array(owners, dtype=np.int64)[right]


def _lines(file: Path, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield the numbers and the text of the lines that are not blank; none of an absent file."""
    if not file.is_file():
        return
    try:
        lines = read_text(file, "label file").splitlines()
    except DataError as error:
        faults.add(FaultKind.MALFORMED, str(error))
        return
    yield from ((row, line) for row, line in enumerate(lines, start=1) if line.strip())


def parse_line(line: str, keypoint_numbers: int = 0) -> tuple[int, tuple[float, ...]]:
    """Parse a line of a label file.

    Returns the class and left, top, width and height as shares of the image's width and height.

    Raises:
        ValueError: it is neither a box nor a polygon, which the message explains.
    """
    words = line.split()
    try:
        label, *numbers = map(float, words)
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} are not numbers alone") from None
    if not label.is_integer() or label < 0:
        raise ValueError(f"the class is {words[0]}, not a whole number from 0 on")
    if keypoint_numbers and len(numbers) == _BOX + keypoint_numbers:
        numbers = numbers[:_BOX]
    if len(numbers) == _BOX:
        x, y, width, height = numbers
        return int(label), (x - width / 2, y - height / 2, width, height)
    if len(numbers) < _LEAST_POLYGON or len(numbers) % 2:
        raise ValueError(
            f"{len(words)} numbers; wanted are the class and four of a box (center, width, "
            "height), or the class and three corners or more of a polygon"
            + (". A confidence at the end marks results, not labels" if len(numbers) == 5 else "")
        )
    xs, ys = numbers[::2], numbers[1::2]
    if not all(map(math.isfinite, numbers)):
        return int(label), (math.nan,) * _BOX
    return int(label), (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
