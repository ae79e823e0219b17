"""A detection dataset in memory: COCO's terms, held in arrays. Needs no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..data_errors import FaultKind, Faults
from ..errors import DataError

TOLERANCE_PX = 1.0
"""A box may reach so far beyond its image, in pixels, and is clipped without a fault.

COCO writes coordinates with two decimals and tools round to whole pixels, so an overshoot below one
pixel is rounding, and more is a mistake.
"""


def first_occurrences(ids: np.ndarray) -> np.ndarray:
    """Return (N,) bool: True where an id of (N,) int64 occurs for the first time."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def check_boxes(
    xywh: np.ndarray,
    sizes_hw: np.ndarray,
    faults: Faults,
    where: Callable[[int], str],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> tuple[np.ndarray, np.ndarray]:
    """Find invalid boxes, and clip the others to their images.

    Args:
        xywh: (K, 4) float64.
        sizes_hw: (K, 2) int64, the size of each box's image.
        faults: collects the faults, or raises.
        where: row -> the file and the annotation id, for messages.
        tolerance_px: see `TOLERANCE_PX`.

    Returns:
        The clipped boxes (K, 4) float32 xyxy, and (K,) bool: which boxes are valid.
    """

    def describe(row: int) -> str:
        x, y, width, height = xywh[row]
        return f"{where(row)} has the box x={x:g} y={y:g} w={width:g} h={height:g}"

    finite = np.logical_and.reduce(np.isfinite(xywh), axis=1)
    faults.add_where(FaultKind.NOT_FINITE, ~finite, describe)
    sized = finite & (xywh[:, 2:] > 0).all(axis=1)
    faults.add_where(FaultKind.NO_SIZE, finite & ~sized, describe)
    limits_wh = sizes_hw[:, ::-1].astype(np.float64)
    corners = np.where(finite[:, None], xywh, 0.0)
    corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    clipped = np.clip(corners, 0.0, np.tile(limits_wh, 2)).astype(np.float32)
    # The largest overshoot of the four sides.
    over = np.maximum(-corners[:, :2], corners[:, 2:] - limits_wh).max(axis=1, initial=0.0)
    inside = (over <= tolerance_px) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    faults.add_where(
        FaultKind.OUTSIDE,
        sized & ~inside,
        lambda row: f"{describe(row)} in an image of {sizes_hw[row, 1]}x{sizes_hw[row, 0]}",
    )
    return clipped, sized & inside


_MINIVALS = {
    ("COCO val2017", 5000): "minival: the 5,000 images of val2017",
    ("COCO val2014", 8059): "the paper's minival: 8,059 images of val2014",
}


class ImageTable(NamedTuple):
    """The M images."""

    ids: np.ndarray
    """(M,) int64, unique."""
    file_names: np.ndarray
    """(M,) str objects, as the annotation file names them."""
    paths: np.ndarray
    """(M,) str objects, the files."""
    sizes_hw: np.ndarray
    """(M, 2) int64, the declared height and width in pixels."""


class BoxTable(NamedTuple):
    """K boxes, of one image or of all, sorted by image."""

    ids: np.ndarray
    """(K,) int64, annotation ids."""
    xywh: np.ndarray
    """(K, 4) float64, as annotated: left, top, width, height in pixels of the declared size."""
    xyxy: np.ndarray
    """(K, 4) float32, clipped to the image: left, top, right, bottom."""
    labels: np.ndarray
    """(K,) int64, class indices: positions in the categories."""
    crowd: np.ndarray
    """(K,) bool, regions to ignore (COCO's ``iscrowd``, VOC's ``difficult``)."""
    areas: np.ndarray
    """(K,) float64, as annotated (COCO: the mask's area in pixels)."""
    landmarks: np.ndarray | None = None
    """(K, 5, 2) float32, x and y of the five points of a face, as in ``Objects``; NaN where not
    annotated. None if there are none at all."""

    def take(self, rows: np.ndarray | slice) -> "BoxTable":
        """Return some rows: a mask, positions or a slice."""
        return self._make(None if column is None else column[rows] for column in self)

    def points(self) -> np.ndarray:
        """Return the landmarks (K, 5, 2) float32, NaN if there are none at all."""
        if self.landmarks is None:
            return np.full((len(self.ids), 5, 2), np.nan, np.float32)
        return self.landmarks


@dataclass(frozen=True, eq=False)
class Annotations:
    """Images, boxes and categories of a dataset or split; see `build`.

    Attributes:
        title: the name of the dataset, without its number of images.
        categories: COCO category id -> name. The position in this dict is the class index. Ids may
            have gaps.
        images: the M images.
        boxes: all K boxes, sorted by image.
        starts: (M + 1,) int64; the boxes of image i are the rows ``starts[i]:starts[i + 1]``.
        faults: what was left out.
        set_aside: number of boxes of classes that the file declares and that were not chosen.
        subsets: name -> ids of the boxes that count in a part of the evaluation, such as WIDER
            FACE's easy, medium and hard; empty for most data.
    """

    title: str
    categories: dict[int, str]
    images: ImageTable
    boxes: BoxTable
    starts: np.ndarray
    faults: Faults
    set_aside: int = 0
    subsets: dict[str, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        title: str,
        categories: dict[int, str],
        images: ImageTable,
        boxes: BoxTable,
        *,
        owners: np.ndarray,
        faults: Faults,
    ) -> "Annotations":
        """Sort boxes by ``owners`` (K,) int64, the position of each one's image."""
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(images.ids) + 1))
        return cls(title, categories, images, boxes.take(order), starts, faults)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the cached `ground_truth`, for worker processes."""
        return {key: value for key, value in self.__dict__.items() if key != "ground_truth"}

    def __len__(self) -> int:
        return len(self.images.ids)

    @property
    def name(self) -> str:
        """The name in results: the title and the number of images, or the "minival"."""
        minival = _MINIVALS.get((self.title, len(self)))
        return f"{self.title} ({minival or f'{len(self):,} images'})"

    @property
    def owners(self) -> np.ndarray:
        """(K,) int64, for each box the position of its image."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def boxes_of(self, index: int) -> BoxTable:
        """Return the boxes of the image at a position."""
        return self.boxes.take(slice(self.starts[index], self.starts[index + 1]))

    def select(self, images: np.ndarray) -> "Annotations":
        """Return the images at these positions (or under this mask (M,) bool), with their boxes."""
        images = np.arange(len(self))[images]
        position = np.full(len(self), -1)
        position[images] = np.arange(len(images))
        owners = position[self.owners]
        chosen = ImageTable(*(column[images] for column in self.images))
        rows = owners >= 0
        selected = Annotations.build(
            self.title, self.categories, chosen, self.boxes.take(rows),
            owners=owners[rows], faults=self.faults,
        )  # fmt: skip
        return replace(selected, set_aside=self.set_aside, subsets=self.subsets)

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        """The dict in COCO's format for pycocotools: boxes as annotated, not clipped; no masks."""
        images, boxes = self.images, self.boxes
        category_ids = np.array(list(self.categories), dtype=np.int64)[boxes.labels]
        heights, widths = images.sizes_hw.T
        objects = _objects(
            id=boxes.ids, image_id=images.ids[self.owners], category_id=category_ids,
            bbox=boxes.xywh, area=boxes.areas, iscrowd=boxes.crowd.astype(int),
        )  # fmt: skip
        return {
            "info": {"description": self.name},
            "images": _objects(
                id=images.ids, file_name=images.file_names, height=heights, width=widths
            ),
            "annotations": objects,
            "categories": [{"id": key, "name": name} for key, name in self.categories.items()],
        }

    def summary(self) -> str:
        """Return one line: the counts, and what was left out."""
        crowd = int(self.boxes.crowd.sum())
        empty = int((np.diff(self.starts) == 0).sum())
        boxes = f"{len(self.boxes.ids):,} boxes"
        if crowd:
            boxes += f" (of which {crowd:,} crowd regions)"
        if self.boxes.landmarks is not None:
            points = self.boxes.landmarks.reshape(-1, 10)
            known = int((~np.isnan(points)).sum(axis=1).astype(bool).sum())
            boxes += f", {known:,} with landmarks"
        line = f"{self.name}: {boxes}, classes: {len(self.categories)}"
        if empty:
            line = f"{line}, images without boxes: {empty:,}"
        if self.set_aside:
            line = f"{line}; {self.set_aside:,} boxes of other classes set aside"
        return f"{line}; left out: {self.faults.summary()}" if self.faults.total else line


def _objects(**columns: np.ndarray) -> list[dict[str, Any]]:
    """Turn columns of N values into N dicts for JSON."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def merge(parts: Sequence[Annotations]) -> Annotations:
    """Join several parts to one dataset, in their order.

    Raises:
        DataError: the parts have different categories, or an image or annotation id in common.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if list(part.categories.items()) != list(first.categories.items()):
            raise DataError(
                f"{first.title} and {part.title} declare different categories, so they cannot be "
                "parts of one split. Give both files the same categories."
            )
    images = ImageTable(*map(np.concatenate, zip(*(p.images for p in parts), strict=True)))
    boxes = BoxTable(*map(np.concatenate, zip(*(p.boxes[:6] for p in parts), strict=True)))
    if any(part.boxes.landmarks is not None for part in parts):
        boxes = boxes._replace(landmarks=np.concatenate([part.boxes.points() for part in parts]))
    title = " + ".join(part.title for part in parts)
    for what, ids in (("image", images.ids), ("annotation", boxes.ids)):
        again = ids[~first_occurrences(ids)]
        if again.size:
            raise DataError(
                f"{title}: {again.size:,} {what} ids occur in more than one part, the first is "
                f"{again[0]}. Renumber one of the files, or leave images out with exclude_ids."
            )
    offsets = np.cumsum([0] + [len(part) for part in parts[:-1]])
    owners = np.concatenate([p.owners + offset for p, offset in zip(parts, offsets, strict=True)])
    faults = Faults(first.faults.on_error)
    for part in parts:
        faults.extend(part.faults)
    merged = Annotations.build(title, first.categories, images, boxes, owners=owners, faults=faults)
    return replace(merged, set_aside=sum(part.set_aside for part in parts))


def choose(
    annotations: Annotations, image_ids: np.ndarray, source: str, *, keep: bool
) -> Annotations:
    """Keep only the images of a list of ids (N,) int64, or all others if not ``keep``.

    An unknown id is a `DataError` that names ``source``; under ``on_error="skip"`` it is
    counted.
    """
    positions, known = find(annotations.images.ids, image_ids)
    faults = annotations.faults.copy()
    faults.add_where(
        FaultKind.UNKNOWN_IMAGE,
        ~known,
        lambda row: f"{source}: image id {image_ids[row]} is not in {annotations.title}",
    )
    listed = np.zeros(len(annotations), dtype=bool)
    listed[positions[known]] = True
    return replace(annotations.select(listed if keep else ~listed), faults=faults)


def find(haystack: np.ndarray, needles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find ``needles`` (N,) in ``haystack`` (M,), both int64, the latter unique.

    Returns (N,) int64 positions, valid where the second result, (N,) bool, is True.
    """
    if not haystack.size:
        return np.zeros(len(needles), dtype=np.int64), np.zeros(len(needles), dtype=bool)
    order = np.argsort(haystack)
    place = np.minimum(np.searchsorted(haystack, needles, sorter=order), len(haystack) - 1)
    positions = order[place]
    return positions, haystack[positions] == needles
