"""COCO results files: written of what was found, and measured against annotations. Torch-free."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...datasets.data_errors import FaultKind, Faults
from ...datasets.detection.annotations import Annotations
from ...datasets.detection.coco import read_coco
from ...datasets.detection.image_checks import fit_to_pictures
from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...heads.detection.coco_metrics import CocoResult, evaluate_boxes
from .inputs import InputFile
from .progress import Listed, ProgressStore
from .tables import json_list


@dataclass(frozen=True)
class Numbering:
    """Which image id each picture has.

    Attributes:
        ids: Path -> image id.
        annotations: What they are measured against, with the paths of the pictures; None where
            there are no annotations.
        faults: A message for each picture that has no place in the annotations.
    """

    ids: dict[Path, int]
    annotations: Annotations | None
    faults: list[str]


def number_pictures(
    files: Sequence[InputFile], annotation_file: Path | None, categories: dict[int, str]
) -> Numbering:
    """Give every picture an image id: 1, 2, ... or that of the annotation file.

    Annotations are matched by file name: the end of a picture's path has to be the ``file_name``.

    Args:
        files: From ``find_files``; videos have no id.
        annotation_file: COCO annotations, or None.
        categories: Those of the model.

    Raises:
        DataError: The annotations are faulty, name one picture twice among the files, have none of
            the files, or mean other classes by the model's category ids.
    """
    pictures = [file.path for file in files if not file.is_video]
    if annotation_file is None:
        return Numbering({path: number for number, path in enumerate(pictures, 1)}, None, [])
    annotations = read_coco(annotation_file, annotation_file.parent)
    _check_categories(annotation_file, annotations.categories, categories)
    rows, unknown = _match(pictures, annotations.images.file_names.tolist())
    if not rows:
        raise DataError(
            f"{annotation_file}: describes none of the {len(pictures):,} pictures; its first is "
            f"{annotations.images.file_names[0]}. Give the annotations of these pictures."
        )
    faults = [f"{path}: not in {annotation_file}, so not in the results" for path in unknown]
    chosen = np.array(sorted(rows))
    paths = np.array([str(rows[row]) for row in chosen], dtype=object)
    matched = annotations.select(chosen)
    matched = replace(matched, images=matched.images._replace(paths=paths), faults=Faults("skip"))
    fitted = fit_to_pictures(matched)  # unreadable ones are left out here and reported by detection
    faults += fitted.faults.messages.get(FaultKind.SIZE, [])
    pairs = zip(fitted.images.paths.tolist(), fitted.images.ids.tolist(), strict=True)
    return Numbering({Path(path): number for path, number in pairs}, fitted, faults)


def _check_categories(file: Path, declared: dict[int, str], known: dict[int, str]) -> None:
    shared = declared.keys() & known.keys()
    if any(declared[key].casefold() == known[key].casefold() for key in shared):
        return
    some = ", ".join(f"{key} {name}" for key, name in list(known.items())[:3])
    others = ", ".join(f"{key} {name}" for key, name in list(declared.items())[:3])
    raise DataError(
        f"{file}: no category has the id and the name of one of the model's. The model's are "
        f"{some}, ...; the file's {others}, ... Give annotations with the model's categories."
    )


def _match(
    pictures: Sequence[Path], file_names: Sequence[str]
) -> tuple[dict[int, Path], list[Path]]:
    """Row of the annotations -> picture, and the pictures that have no row."""
    by_name: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for row, name in enumerate(file_names):
        parts = PurePosixPath(name).parts
        by_name.setdefault(parts[-1], []).append((row, parts))
    rows: dict[int, Path] = {}
    unknown = []
    for path in pictures:
        own = path.absolute().parts
        fitting = [(len(parts), row) for row, parts in by_name.get(path.name, [])
                   if own[-len(parts) :] == parts]  # fmt: skip
        if not fitting:
            unknown.append(path)
            continue
        row = max(fitting)[1]
        if row in rows:
            raise DataError(
                f"{rows[row]} and {path} are both called {file_names[row]}, which the annotations "
                "have once. Give one of them, or only the folder that the annotations are for."
            )
        rows[row] = path
    return rows, unknown


def write_results(path: Path, store: ProgressStore, numbering: Numbering) -> None:
    """Write all detections in images in COCO's results format, in the order of the files.

    Beside it goes ``<name of path>_images.json``, COCO's description of the images by image id,
    where the ids were made here.

    Args:
        path: The results file.
        store: What was found.
        numbering: The image ids; files without one are left out.
    """
    images = []
    with json_list(path) as add_rows:
        for file, number, entry in _entries(store, numbering):
            keys = ("image_id", "category_id", "bbox", "score")
            add_rows(
                dict(zip(keys, (number, row[0], row[1:5], row[5]), strict=True))
                for row in entry["found"]
            )
            height, width = entry["size_hw"]
            images.append({"id": number, "file_name": file.name, "height": height, "width": width})
    if numbering.annotations is None:
        listing = path.with_name(f"{path.stem}_images.json")
        write_atomically(listing, json.dumps({"images": images}, indent=1).encode())


def measure(path: Path, store: ProgressStore, numbering: Numbering) -> CocoResult:
    """The COCO numbers of a results file, on the images in which detection has run.

    Args:
        path: From ``write_results``.
        store: What was found.
        numbering: With annotations.
    """
    assert numbering.annotations is not None
    done = [number for _, number, _ in _entries(store, numbering)]
    kept, _ = numbering.annotations.positions_of(np.array(done, dtype=np.int64))
    annotations = numbering.annotations.select(kept)
    results: list[dict[str, Any]] = json.loads(path.read_bytes())
    return evaluate_boxes(
        annotations.ground_truth, results, annotations.name, annotations.categories
    )


def _entries(
    store: ProgressStore, numbering: Numbering
) -> Iterator[tuple[Listed, int, dict[str, Any]]]:
    """File, image id and entry of every image that has an id and is done."""
    for file, made in store.results():
        if file.path in numbering.ids:
            yield file, numbering.ids[file.path], json.loads(made.content)
