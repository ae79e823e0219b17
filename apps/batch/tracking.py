"""Follow the objects of a video from frame to frame."""

from dataclasses import replace
from importlib import import_module

import numpy as np

from ...datasets.errors import DataError
from ..inference.detection import DetectionResult, import_supervision

_LOWEST_SCORE = 0.1
"""Objects of lower score continue no track, as in the paper's Section 3."""


class Tracking:
    """Gives the objects of successive frames numbers: ByteTrack (Zhang et al. 2022).

    An object that scores at least the threshold begins a track, which has a number from its second
    frame on; objects that score less continue tracks (arXiv 2110.06864). Classes are not compared.

    Args:
        fps: Frames per second; a track that is lost for a second ends.
        score_threshold: See above.

    Raises:
        DataError: The package ``trackers`` or ``supervision`` is not installed.
    """

    def __init__(self, fps: float, score_threshold: float) -> None:
        import_supervision("--track")
        try:
            trackers = import_module("trackers")
        except ImportError as error:
            raise DataError(
                "--track needs the package trackers: pip install --no-deps trackers (with its "
                "dependencies, it replaces headless OpenCV, and everything needs a display's "
                "libraries)"
            ) from error
        self._tracker = trackers.ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=score_threshold,
            high_conf_det_threshold=score_threshold,
        )
        self._lowest = min(_LOWEST_SCORE, score_threshold)

    def __call__(self, result: DetectionResult) -> DetectionResult:
        """Return the objects of the next frame with the numbers of their tracks."""
        tracks = np.full(len(result), -1, dtype=np.int64)
        rows = np.flatnonzero(result.scores >= np.float32(self._lowest))
        detections = result.take(rows).to_supervision()
        detections.data["row"] = rows
        followed = self._tracker.update(detections)
        if len(followed):
            tracks[followed.data["row"]] = followed.tracker_id
        return replace(result, tracks=tracks)
