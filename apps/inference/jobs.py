"""The table of all jobs, to which a new one is added."""

from typing import TYPE_CHECKING, Any

from ...datasets.errors import DataError
from .classification import Classifier
from .detection import Detector
from .face_analysis import FaceAnalyzer
from .face_attributes import FaceAttributes
from .face_detection import FaceDetector
from .face_embedding import FaceEmbedder
from .geolocation import Geolocator
from .predictor import Predictor

if TYPE_CHECKING:
    from ...heads.task import ImageTask

PREDICTORS: tuple[type[Predictor[Any]], ...] = (
    FaceDetector,  # before the page that it is a special kind of
    Detector,
    Classifier,
    FaceAttributes,
    FaceEmbedder,
    FaceAnalyzer,
    Geolocator,
)


def predictor_of(task: "ImageTask") -> type[Predictor[Any]]:
    """Return the predictor of a task.

    Raises:
        DataError: There is none.
    """
    for predictor in PREDICTORS:
        if isinstance(task, predictor.task_class()):
            return predictor
    jobs = ", ".join(predictor.job for predictor in PREDICTORS)
    raise DataError(f"{type(task).__name__} is a task of none of these jobs: {jobs}.")
