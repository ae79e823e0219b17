"""Whom a face detector misses: the share of CelebA's faces that it finds, by group.

    python benchmarks/face_groups.py --data=celeba
    python benchmarks/face_groups.py --data=celeba --side_px=40

Every aligned image (178x218 px) has one known face, with its landmarks. It counts as found where a
detection's landmarks have their center within an eye distance of the known ones' center.
``side_px`` reduces the images first, so that their faces get small.

The intervals are Wilson's, at 95 %; they take the images for independent, though many are of one
person. Faces that the detector missed with which a data set was made are not in it.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy.stats import binomtest

from mobilevision.apps import FaceDetector
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.celeba import PARTITIONS
from mobilevision.datasets.faces.sources import CelebAFaces, CelebAPart, Faces
from mobilevision.datasets.images import ImageFile, fit_within, stretch

GROUPS = ("Male", "Young", "Eyeglasses", "Wearing_Hat", "Blurry", "Pale_Skin", "Heavy_Makeup",
          "No_Beard", "Bangs")  # fmt: skip
BATCH_SIZE = 16


class Rate(NamedTuple):
    """The share of the faces of a group that was found."""

    faces: int
    found: int
    interval: tuple[float, float]
    """Of the share, at 95 %."""
    distance: float
    """Mean distance of landmarks, in distances of the eyes; NaN where nothing was found."""


def measure(
    data: str | None = None,
    model: str | None = None,
    groups: Sequence[str] = GROUPS,
    parts: Sequence[str] = tuple(PARTITIONS),
    side_px: int | None = None,
    count: int | None = None,
) -> dict[str, Rate]:
    """Print a line for all faces, and one for those with and without each attribute.

    Args:
        data: Folder of CelebA; None takes ``celeba`` in the folder ``MOBILEVISION_DATA``, and
            measures nothing if it is absent.
        model: A face detector; None takes the public weights.
        groups: Attributes.
        parts: Partitions.
        side_px: Longer side to which the images are reduced; None leaves them.
        count: Number of images, from the first; None takes all.

    Returns:
        The rates by the name of the group.
    """
    if data is None:
        data = os.path.join(os.environ.get("MOBILEVISION_DATA", ""), "celeba")
        if not os.path.isdir(data):
            print("without --data, a folder of CelebA, there is nobody to find")
            return {}
    faces = CelebAFaces(data, cast("Sequence[CelebAPart]", parts)).read()
    table = faces.labels
    assert table is not None  # CelebA has them
    if unknown := [name for name in groups if name not in table.attributes]:
        raise DataError(f"{data}: no attribute {unknown[0]}; there are {table.attributes}")
    distances = find_all(FaceDetector.load(model), faces, side_px, count)
    columns = {
        name: table.labels[: len(distances), table.attributes.index(name)] for name in groups
    }
    chosen = {"all": np.ones(len(distances), bool)}
    for name, labels in columns.items():
        chosen |= {f"{name}: yes": labels == 1, f"{name}: no": labels == 0}
    rates = {name: rate(distances[rows]) for name, rows in chosen.items() if rows.any()}
    print(f"{'':<18}{'faces':>7}{'missed':>8}{'found':>9}{'95 % interval':>20}{'distance':>10}")
    for name, (total, found, (low, high), distance) in rates.items():
        interval = f"{low:.2%} to {high:.2%}"
        print(f"{name:<18}{total:>7,}{total - found:>8,}{found / total:>9.2%}{interval:>20}"
              f"{distance:>10.4f}")  # fmt: skip
    return rates


def find_all(
    detector: FaceDetector, faces: Faces, side_px: int | None, count: int | None
) -> np.ndarray:
    """Return the distance (N,) of each face's landmarks to the known ones, infinite if missed."""
    assert faces.landmarks_xy is not None
    known = faces.landmarks_xy[:count]
    distances = []
    for start in range(0, len(known), BATCH_SIZE):
        part = known[start : start + BATCH_SIZE]
        images, scales = [], []
        for file in faces.files[start : start + len(part)]:
            image = ImageFile(faces.root / file).read()
            small_hw = image.shape[:2]
            if side_px is not None:
                small_hw = fit_within((image.shape[0], image.shape[1]), (side_px, side_px))
            images.append(stretch(image, (small_hw[0], small_hw[1])))
            scales.append(np.divide(small_hw, image.shape[:2])[::-1])
        found = detector(images)
        distances += [
            nearest(result.landmarks, points * scale)
            for result, points, scale in zip(found, part, scales, strict=True)
        ]
    return np.array(distances)


def nearest(found: np.ndarray, points: np.ndarray) -> float:
    """Return the mean distance of found landmarks (K, 5, 2) to known ones, in eye distances."""
    eyes = float(np.linalg.norm(points[1] - points[0]))
    centers = np.linalg.norm(found.mean(axis=1) - points.mean(axis=0), axis=1) / eyes
    if not len(found) or centers.min() > 1:
        return np.inf
    return float(np.linalg.norm(found[centers.argmin()] - points, axis=1).mean() / eyes)


def rate(distances: np.ndarray) -> Rate:
    """Return the rate of a group with the distances (N,) of ``find_all``."""
    found = np.isfinite(distances)
    interval = binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")
    distance = float(distances[found].mean()) if found.any() else float("nan")
    low, high = float(interval.low), float(interval.high)
    return Rate(len(found), int(found.sum()), (low, high), distance)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(measure)
