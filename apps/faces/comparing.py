"""Are two faces one person? What the Python APIs with embeddings share. Free of torch."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from ...datasets.errors import DataError
from ..files.inputs import PictureLike
from .reading import FaceReader
from .results import Threshold, Verification, similarity


class Embedded(Protocol):
    """A face with its embedding."""

    @property
    def embedding(self) -> np.ndarray:
        """(D,) float32 of unit length."""
        ...


E = TypeVar("E", bound=Embedded)


class FaceComparer(FaceReader[E]):
    """Finds faces with embeddings, and compares them."""

    @property
    @abstractmethod
    def threshold(self) -> Threshold | None:
        """The threshold that was measured with this model; None where none was."""

    def verify(
        self,
        a: PictureLike | Embedded,
        b: PictureLike | Embedded,
        threshold: float | None = None,
    ) -> Verification:
        """Say whether two faces are of one person.

        Args:
            a: A picture, of which the largest face is taken; a face that was found; or an
                embedding (D,).
            b: Another one.
            threshold: Least similarity of one person; by default the one that was measured with
                this model.

        Returns:
            The answer, and the measured share of pairs of different people for which it would be
            "same" by mistake. Where few people were measured, or the pictures are of another kind,
            that share is another one.

        Raises:
            DataError: A picture cannot be read or has no face, or nobody measured the threshold.
        """
        measured = self.threshold if threshold is None else None
        if threshold is None and measured is None:
            raise DataError(
                "this model has no measured threshold. Give one, such as threshold=0.4; "
                "`mobilevision verify` with --store measures it and puts it into the checkpoint; "
                "each validation of a training does so, too."
            )
        limit = measured.similarity if measured else cast(float, threshold)
        alike = float(similarity(self._embedding(a, "first"), self._embedding(b, "second")))
        return Verification(alike >= limit, alike, limit, measured.far if measured else None)

    def _embedding(self, value: Any, place: str) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value
        known = getattr(value, "embedding", None)
        if known is not None:
            return known
        faces = cast("list[E]", self(value))
        if not faces:
            name = value if isinstance(value, str | Path) else f"the {place} picture"
            raise DataError(f"{name}: no face found, so there is nothing to compare")
        return faces[0].embedding
