"""Detection from Python: pictures of any kind in, objects in their own pixels out.

    from mobilevision.apps import Detector

    detector = Detector.load("ssd.ckpt")
    result = detector("street.jpg")
    result.names, result.scores, result.boxes

Free of torch; the runtime that the model's file is for is imported when it is loaded.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import stretch
from ...heads.trust import trusting
from ..engines.protocol import DetectionEngine, load_engine
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from .results import DetectionResult

if TYPE_CHECKING:
    from torch import nn

DEFAULT_THRESHOLD = 0.5
"""The least score of an object that people want to see."""


class _Prepared(NamedTuple):
    pixels: np.ndarray
    """(h, w, 3) uint8, of the network's size."""
    size_hw: tuple[int, int]
    """Of the original picture."""


class Detector:
    """A detector that takes pictures as people have them.

    Args:
        engine: What runs the network; ``Detector.load`` and ``Detector.from_network`` make one.
    """

    def __init__(self, engine: DetectionEngine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        trust: Iterable[str] = (),
    ) -> "Detector":
        """Load a checkpoint of ``DetectionTask``, trained or imported.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width that pictures are stretched to; None takes those of training.
            trust: Packages whose classes a checkpoint may name besides those of this package; never
                for a file of a stranger.

        Raises:
            DataError: No such file, or no detector in it; the message says what to do.
        """
        with trusting(trust):
            return cls(load_engine(path, device, size_hw))

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        categories: dict[int, str],
        size_hw: tuple[int, int] = (300, 300),
        device: str = "auto",
    ) -> "Detector":
        """Make a detector of a network that was built in Python; the network is copied.

        Args:
            network: Follows ``DetectionNetwork``, such as ``SSD``.
            categories: Category id -> name; the position is the class index.
            size_hw: Height and width that pictures are stretched to, as in training.
            device: As for ``load``.

        Raises:
            DataError: There is no such device.
        """
        from ..engines.eager import TorchEngine

        return cls(TorchEngine(network, categories, size_hw, device))

    @property
    def categories(self) -> dict[int, str]:
        """Category id -> name; the position is the class index."""
        return self.engine.categories

    def __call__(
        self,
        images: PictureLike | Iterable[PictureLike],
        score_threshold: float = DEFAULT_THRESHOLD,
        batch_size: int = 8,
    ) -> "DetectionResult | list[DetectionResult]":
        """Find objects.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes. Grey pictures, alpha and EXIF rotation
                are taken care of; see ``MemoryPicture``.
            score_threshold: Objects below it are left out; 0 leaves all that the network's own
                post-processing keeps.
            batch_size: Pictures that go through the network at once.

        Returns:
            A result for a single picture, a list for anything else; an empty list for an empty one.
            A picture in which nothing is found has a result without objects.

        Raises:
            DataError: A picture cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
        pictures, single = as_pictures(images)
        results = all_or_raise(self.stream(pictures, score_threshold, batch_size))
        return results[0] if single else results

    def stream(
        self,
        pictures: Iterable[Picture],
        score_threshold: float = DEFAULT_THRESHOLD,
        batch_size: int = 8,
    ) -> Iterator[DetectionResult | DataError]:
        """Find objects in any number of pictures without holding more than a few of them.

        Pictures are decoded in background threads, ahead of the network by two batches.

        Args:
            pictures: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            score_threshold: As for calling the detector.
            batch_size: As for calling the detector.

        Yields:
            For each picture in order its result, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1 or not 0 <= score_threshold <= 1:
            raise DataError(
                f"batch_size={batch_size}, score_threshold={score_threshold}: the first must be at "
                "least 1, the second from 0 to 1."
            )
        prepared = prepare_ahead(pictures, self._prepare, ahead=2 * batch_size)
        while batch := list(islice(prepared, batch_size)):
            yield from self._detect(batch, score_threshold)

    def _prepare(self, picture: Picture) -> _Prepared:
        pixels = picture.read()
        size_hw = (pixels.shape[0], pixels.shape[1])
        return _Prepared(stretch(pixels, self.engine.size_hw), size_hw)

    def _detect(
        self, batch: list[tuple[Picture, _Prepared | DataError]], score_threshold: float
    ) -> Iterator[DetectionResult | DataError]:
        good = [prepared.pixels for _, prepared in batch if isinstance(prepared, _Prepared)]
        rows = iter(zip(*self.engine(np.stack(good)), strict=True)) if good else iter(())
        for picture, prepared in batch:
            if isinstance(prepared, DataError):
                yield prepared
                continue
            boxes, scores, labels = next(rows)
            kept = (labels >= 0) & (scores >= np.float32(score_threshold))
            yield DetectionResult(
                boxes[kept] * self._scale(prepared.size_hw),
                scores[kept],
                labels[kept],
                self.categories,
                prepared.size_hw,
                picture,
            )

    def _scale(self, size_hw: tuple[int, int]) -> np.ndarray:
        """From pixels of the network's input to those of a picture: (4,) float32, x, y, x, y."""
        sizes = np.array(size_hw, dtype=np.float32) / np.array(self.engine.size_hw, np.float32)
        return sizes[[1, 0, 1, 0]]
