"""WIDER FACE in its official layout (Yang et al. 2016, arXiv 1511.06523). Needs no torch.

    WIDER_train/images/0--Parade/0_Parade_marchingband_1_849.jpg
    WIDER_val/images/...
    wider_face_split/wider_face_train_bbx_gt.txt, wider_face_val_bbx_gt.txt
    eval_tools/ground_truth/wider_{face,easy,medium,hard}_val.mat   which faces count
    label.txt                                                       landmarks, for training

``label.txt`` is RetinaFace's (Deng et al. 2019, Section 4.1): five points of the faces of the
training images. It is looked for in the root, in ``train/`` and in ``wider_face_split/``.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..classification.matlab import read_mat
from ..data_errors import FaultKind, Faults, OnError, data_log
from ..detection.annotations import Annotations, BoxTable, ImageTable, check_boxes
from ..errors import DataError
from ..images import ImageFile

SUBSETS = ("easy", "medium", "hard")
FACE = {1: "face"}
_COLUMNS = 10  # x, y, width, height, blur, expression, illumination, invalid, occlusion, pose
_BLUR, _INVALID, _OCCLUSION = 4, 7, 8
_LABEL_FOLDERS = ("", "train", "wider_face_split")
_TRUTH_FOLDERS = ("eval_tools/ground_truth", "ground_truth", "wider_face_split")

Degree = Literal[0, 1, 2]


class WiderFace:
    """A split of WIDER FACE.

    Invalid faces are regions to ignore. Faulty boxes of the release, such as those without a size,
    are left out and counted, and boxes that reach beyond the image are clipped.

    Args:
        root: The folder of the layout.
        split: Which one; the official test split has no annotations.
        max_blur: Blurrier faces are regions to ignore, too: 0 is clear, 1 normal, 2 heavy.
        max_occlusion: More occluded faces are, too: 0 is none, 1 partial (1 to 30 %), 2 heavy.
        landmarks: RetinaFace's ``label.txt``, relative to the root; null looks for it where it is
            the training split.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"] = "train",
        max_blur: Degree = 2,
        max_occlusion: Degree = 2,
        landmarks: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.max_blur, self.max_occlusion = max_blur, max_occlusion
        self.landmarks = landmarks
        self.categories = dict(FACE)

    def read(self, on_error: OnError = "raise") -> Annotations:
        """Read the annotations, and the headers of the images for their size.

        Raises:
            DataError: A file is absent or not in the format, or, under ``on_error="raise"``, an
                image is missing or broken.
        """
        file = self.root / "wider_face_split" / f"wider_face_{self.split}_bbx_gt.txt"
        folder = self.root / f"WIDER_{self.split}" / "images"
        listed = read_boxes(file)
        faults = Faults(on_error)
        good, sizes_hw = _sizes(folder, listed.names, faults)
        table = np.concatenate([*listed.rows, np.zeros((0, _COLUMNS))])
        owners = np.repeat(np.arange(len(listed.names)), [len(rows) for rows in listed.rows])
        released = Faults("skip")
        xyxy, right = check_boxes(
            table[:, :4],
            sizes_hw[owners],
            released,
            lambda row: f"{file}: a face of {listed.names[owners[row]]}",
            tolerance_px=np.inf,
        )
        boxes = BoxTable(
            ids=np.arange(1, len(table) + 1),
            xywh=table[:, :4],
            xyxy=xyxy,
            labels=np.zeros(len(table), np.int64),
            crowd=self._ignored(table),
            areas=table[:, 2] * table[:, 3],
            landmarks=self._landmarks(listed),
        )
        names = np.array(listed.names, dtype=object)
        paths = np.array([str(folder / name) for name in listed.names], dtype=object)
        images = ImageTable(np.arange(1, len(names) + 1), names, paths, sizes_hw)
        faults.extend(released)
        annotations = Annotations.build(
            f"WIDER FACE {self.split}", FACE, images, boxes.take(right), owners=owners[right],
            faults=faults,
        ).select(good)  # fmt: skip
        return replace(annotations, subsets=self._subsets(listed))

    def _ignored(self, table: np.ndarray) -> np.ndarray:
        """Return which faces (K,) bool are regions to ignore."""
        unclear = table[:, _BLUR] > self.max_blur
        return (table[:, _INVALID] > 0) | unclear | (table[:, _OCCLUSION] > self.max_occlusion)

    def _landmarks(self, listed: "ListedFaces") -> np.ndarray | None:
        """Return the landmarks (K, 5, 2) float32 of all faces; None without ``label.txt``."""
        if self.landmarks is not None:
            file = self.root / self.landmarks
        else:
            places = [self.root / folder / "label.txt" for folder in _LABEL_FOLDERS]
            there = [place for place in places if place.is_file() and self.split == "train"]
            if not there:
                return None
            file = there[0]
        found = read_landmarks(file)
        points = [np.full((len(rows), 5, 2), np.nan, np.float32) for rows in listed.rows]
        lost = 0
        for name, rows, own in zip(listed.names, listed.rows, points, strict=True):
            left = {tuple(row[:4].tolist()): index for index, row in enumerate(rows)}
            for box, of_face in found.pop(name, []):
                index = left.pop(box, None)
                if index is None:
                    lost += 1
                else:
                    own[index] = of_face
        lost += sum(map(len, found.values()))
        if lost:
            data_log.warning(
                f"{file}: {lost:,} faces with landmarks are none of those of {self.split}; they "
                "are left out"
            )
        return np.concatenate([*points, np.zeros((0, 5, 2), np.float32)])

    def _subsets(self, listed: "ListedFaces") -> dict[str, frozenset[int]]:
        """Return the ids of the faces that count, by subset; empty without the .mat files."""
        if self.split != "val":
            return {}
        for folder in (self.root / place for place in _TRUTH_FOLDERS):
            if all((folder / f"wider_{subset}_val.mat").is_file() for subset in SUBSETS):
                return read_subsets(folder, listed)
        data_log.warning(
            f"{self.root}: no {_TRUTH_FOLDERS[0]} with wider_easy_val.mat and the others, so easy, "
            "medium and hard are not measured"
        )
        return {}


class ListedFaces(NamedTuple):
    """The content of an annotation file."""

    names: list[str]
    """File names, relative to the folder of the images."""
    rows: list[np.ndarray]
    """For each file (N, 10) float64: x, y, width, height in px, then blur (0 to 2), expression,
    illumination, invalid (0 or 1), occlusion (0 to 2) and pose."""


def read_boxes(file: Path) -> ListedFaces:
    """Read ``wider_face_*_bbx_gt.txt``: name, number of faces and a line for each of them.

    Raises:
        DataError: It is absent, or a line is not as the format has it.
    """
    lines = _lines(file)
    listed = ListedFaces([], [])
    line = 0
    while line < len(lines):
        name = lines[line]
        count = lines[line + 1] if line + 1 < len(lines) else ""
        if not count.isdecimal() or name.startswith("/") or ".." in name.split("/"):
            raise DataError(
                f"{file}:{line + 1}: {name!r:.60} and {count!r:.60} are not a file name below the "
                "images and a number of faces. Give the file of WIDER FACE's release."
            )
        line += 2
        end = line + int(count)
        rows = [_numbers(file, number, lines) for number in range(line, end)]
        if not rows and line < len(lines) and _is_placeholder(lines[line]):
            end += 1
        listed.names.append(name)
        listed.rows.append(np.array(rows, np.float64).reshape(-1, _COLUMNS))
        line = end
    if len(set(listed.names)) < len(listed.names):
        again = next(name for name in listed.names if listed.names.count(name) > 1)
        raise DataError(f"{file}: {again} is listed twice. Give the file of WIDER FACE's release.")
    return listed


def _numbers(file: Path, number: int, lines: list[str]) -> list[float]:
    """Return the ten numbers of a line."""
    words = lines[number].split() if number < len(lines) else []
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != _COLUMNS or not np.isfinite(values).all():
        raise DataError(
            f"{file}:{number + 1}: {' '.join(words)!r:.60} is not a face of {_COLUMNS} numbers. "
            "Give the file of WIDER FACE's release."
        )
    return values


def _is_placeholder(line: str) -> bool:
    """Whether a line is the row of zeros that stands for "no face"."""
    return line.split() == ["0"] * _COLUMNS


def read_landmarks(
    file: Path,
) -> dict[str, list[tuple[tuple[float, float, float, float], np.ndarray]]]:
    """Read RetinaFace's ``label.txt``: of each file the faces with landmarks.

    A line "# name" and one for each face: x, y, width, height, then x, y and a flag of each point,
    which are -1 where it is not annotated; more numbers are ignored.

    Returns:
        File name -> boxes (x, y, width, height) with points (5, 2) float32, NaN where unknown.

    Raises:
        DataError: It is absent, or a line is not as the format has it.
    """
    found: dict[str, list[tuple[tuple[float, float, float, float], np.ndarray]]] = {}
    name = None
    for number, line in enumerate(_lines(file), start=1):
        if line.startswith("#"):
            name = line[1:].strip()
            found.setdefault(name, [])
            continue
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError:
            values = np.zeros(0)
        if name is None or len(values) < 4 or 4 < len(values) < 19:
            raise DataError(
                f"{file}:{number}: {line!r:.60} is neither '# file name' nor a face of 4 or at "
                "least 19 numbers. Give RetinaFace's label.txt."
            )
        if len(values) >= 19:
            points = values[4:19].reshape(5, 3)
            points[(points[:, :2] < 0).all(axis=1)] = np.nan
            if np.isfinite(points).any():
                x, y, width, height = values[:4].tolist()
                found[name].append(((x, y, width, height), points[:, :2].astype(np.float32)))
    return found


def read_subsets(folder: Path, listed: ListedFaces) -> dict[str, frozenset[int]]:
    """Read which faces count in easy, medium and hard: subset -> ids, counted from 1 over all.

    The four .mat files of ``folder`` belong to the evaluation tools of the release.

    Raises:
        DataError: A file is absent or broken, or describes other faces than ``listed``.
    """
    truth = folder / "wider_face_val.mat"
    events, files, boxes = read_mat(truth, "event_list", "file_list", "face_bbx_list")
    kept = {
        subset: read_mat(folder / f"wider_{subset}_val.mat", "gt_list")[0] for subset in SUBSETS
    }
    counts = [len(rows) for rows in listed.rows]
    first = dict(zip(listed.names, np.cumsum([1, *counts]).tolist(), strict=False))
    rows = dict(zip(listed.names, listed.rows, strict=True))
    ids: dict[str, set[int]] = {subset: set() for subset in SUBSETS}
    for place, name in _named(events, files):
        event, index = place
        file = f"{name}.jpg"
        expected = np.reshape(boxes[event][index], (4, -1)).T
        if file not in rows or not np.array_equal(expected, rows[file][:, :4]):
            raise DataError(
                f"{truth}: its faces of {file} are not those of wider_face_val_bbx_gt.txt. Take "
                "the files of one release."
            )
        for subset, lists in kept.items():
            numbers = np.asarray(lists[event][index]).astype(int) - 1
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(rows[file]):
                raise DataError(f"{folder}: wider_{subset}_val.mat counts a face that {file} lacks")
            ids[subset].update((first[file] + numbers).tolist())
    return {subset: frozenset(found) for subset, found in ids.items()}


def _named(events: list[str], files: list[list[str]]) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield positions in the lists of the .mat files, and the name there."""
    for event, (folder, names) in enumerate(zip(events, files, strict=True)):
        for index, name in enumerate(names):
            yield (event, index), f"{folder}/{name}"


def _sizes(folder: Path, names: list[str], faults: Faults) -> tuple[np.ndarray, np.ndarray]:
    """Return which images (M,) bool can be read, and sizes (M, 2) int64, endless of the others."""
    good = np.ones(len(names), dtype=bool)
    sizes_hw = np.full((len(names), 2), 2**31, dtype=np.int64)
    for row, name in enumerate(names):
        try:
            sizes_hw[row] = ImageFile(folder / name).size_hw
        except DataError as error:
            there = (folder / name).is_file()
            faults.add(FaultKind.UNREADABLE if there else FaultKind.MISSING, str(error))
            good[row] = False
    return good, sizes_hw


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{file}: no such file. Unpack WIDER FACE's release there, wider_face_split.zip and "
            "the images."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable text file ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
