"""Detection of small objects: in overlapping tiles of an image, and in the image as a whole."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from ...datasets.errors import DataError
from .detection import DetectionResult, Detector, import_supervision
from .predictor import ImageSource

OVERLAP = 0.2
"""Share of a tile's side by which neighboring tiles overlap."""
_SAME_SHARE = 0.5


class TiledDetector:
    """A detector that looks at tiles, so that small objects are not scaled down with the image.

    ``supervision.InferenceSlicer`` cuts the tiles and puts their objects together. What is larger
    than a tile is found in the whole image. Of boxes of a class that share half of the smaller one,
    that of the highest score is kept: they are one object, or a part of it that a tile has cut off.
    Boxes around them all, as in SAHI (Akyon et al. 2022, arXiv 2202.06934), are no choice: the
    boxes of low scores, which results have, too, would chain most objects into one.

    Args:
        detector: Looks at the tiles.
        tile_wh: Width and height of a tile in pixels of the image; (0, 0) takes the size of the
            network's input, so that nothing is scaled.

    Raises:
        DataError: supervision is not installed, or a side is too small.
    """

    def __init__(self, detector: Detector, tile_wh: tuple[int, int] = (0, 0)) -> None:
        self.detector = detector
        height, width = detector.size_hw
        self.tile_wh = (width, height) if tile_wh == (0, 0) else tile_wh
        if min(self.tile_wh) < 32:
            width, height = self.tile_wh
            raise DataError(f"tiles of {width}x{height} pixels: a side has at least 32")
        self._supervision: Any = import_supervision("--tiles")

    def stream(
        self,
        images: Iterable[ImageSource],
        score_threshold: float | None = None,
        batch_size: int = 8,
        strict: bool = False,
    ) -> Iterator[DetectionResult | DataError]:
        """Find objects image by image; see ``Detector.stream``. A batch is of tiles."""
        for image in images:
            try:
                pixels = image.read()
            except DataError as error:
                if strict:
                    raise
                yield error
                continue
            yield self._detect(image, pixels, score_threshold, batch_size)

    def _detect(
        self, image: ImageSource, pixels: np.ndarray, threshold: float | None, batch_size: int
    ) -> DetectionResult:
        def look(tiles: list[np.ndarray]) -> list[Any]:
            results = self.detector([*tiles], threshold, batch_size)
            return [each.to_supervision() for each in cast("list[DetectionResult]", results)]

        found = look([pixels])
        if pixels.shape[1] > self.tile_wh[0] or pixels.shape[0] > self.tile_wh[1]:
            overlap_wh = tuple(round(side * OVERLAP) for side in self.tile_wh)
            # Two at least, because with one the slicer hands on a tile in place of a list.
            slicer = self._supervision.InferenceSlicer(
                look, self.tile_wh, overlap_wh, overlap_filter="none",
                batch_size=max(batch_size, 2),
            )  # fmt: skip
            merged = self._supervision.Detections.merge([*found, slicer(pixels)])
            metric = self._supervision.OverlapMetric.IOS
            found = [merged.with_nms(_SAME_SHARE, overlap_metric=metric)]
        (whole,) = found
        order = np.argsort(-whole.confidence, kind="stable")
        height, width = pixels.shape[:2]
        return DetectionResult(
            whole.xyxy[order].astype(np.float32),
            whole.confidence[order].astype(np.float32),
            whole.class_id[order].astype(np.int64),
            self.detector.categories,
            (height, width),
            image,
        )
