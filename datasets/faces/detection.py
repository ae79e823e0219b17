"""Images with all their faces, for a face detector: boxes and five landmarks."""

from pathlib import Path
from typing import Any, Protocol

from ..data_errors import OnError
from ..detection.annotations import Annotations
from ..detection.coco import declared_categories, load_document, read_coco
from ..detection.image_checks import drop_missing, fit_to_images
from ..detection.module import DetectionDataset, collate
from ..errors import DataError
from ..image_module import ImageDataModule, given_splits, require_size
from ..transforms.detection import AlbumentationsPipeline, Transform
from ..transforms.faces import Letterbox, SquareCrop


class FaceBoxSource(Protocol):
    """A source of images with faces, such as ``wider_face.WiderFace``."""

    @property
    def categories(self) -> dict[int, str]:
        """Category id -> name, known before the rest is read."""
        ...

    def read(self, on_error: OnError = "raise") -> Annotations:
        """Read the annotations; see `OnError`."""
        ...


class CocoFaces:
    """An annotation file in COCO's format whose ``keypoints`` are five points.

    These are the eyes, the nose and the corners of the mouth, as seen in the image left before
    right. Faces without keypoints are found, too, and teach no landmarks.

    Args:
        annotations: The file.
        images: The folder that its ``file_name`` entries are relative to.
        categories: Id -> name of the classes to read; null takes all that the file declares.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        categories: dict[int, str] | None = None,
    ) -> None:
        self.annotations, self.images = Path(annotations), Path(images)
        self._categories = categories

    @property
    def categories(self) -> dict[int, str]:
        """See `FaceBoxSource`."""
        if self._categories is None:
            document = load_document(self.annotations)
            self._categories = declared_categories(self.annotations, document)
        return self._categories

    def read(self, on_error: OnError = "raise") -> Annotations:
        """See `FaceBoxSource`."""
        return read_coco(self.annotations, self.images, self._categories, on_error)


class FaceDetectionDataModule(ImageDataModule):
    """Images with all their faces, from a source for each split.

    Args:
        train: Training images.
        val: Images to validate on.
        test: Images to test on; null takes ``val``.
        size_hw: Height and width of the network's input in pixels.
        train_transform: Null is ``SquareCrop(size_hw)``.
        val_transform: Null is ``Letterbox(size_hw)``, as the face detector's task wants it.
        **options: See `ImageDataModule`.
    """

    collate = staticmethod(collate)

    def __init__(
        self,
        train: FaceBoxSource,
        val: FaceBoxSource,
        test: FaceBoxSource | None = None,
        size_hw: tuple[int, int] = (640, 640),
        train_transform: Transform | None = None,
        val_transform: Letterbox | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.splits = given_splits({"train": train, "val": val, "test": test})
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or SquareCrop(self.size_hw)
        self.val_transform = val_transform or Letterbox(self.size_hw)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)
        if isinstance(self.train_transform, AlbumentationsPipeline):
            raise DataError(
                "AlbumentationsPipeline moves boxes and no landmarks: train_transform has to be "
                "SquareCrop or SSDAugment."
            )

    @property
    def categories(self) -> dict[int, str]:
        """Category id -> name, those of the training images."""
        return self.splits["train"].categories

    @property
    def num_classes(self) -> int:
        """Number of classes, background not counted."""
        return len(self.categories)

    def read_dataset(self, split: str) -> DetectionDataset:
        """See `ImageDataModule`."""
        annotations: Annotations = self.splits[split].read(self.on_error)
        if list(annotations.categories.items()) != list(self.categories.items()):
            raise DataError(
                f"{annotations.name}: its classes {annotations.categories} are not those of the "
                f"training images, {self.categories}. Name the classes of each source alike."
            )
        train = split == "train"
        fitted = drop_missing(annotations) if train else fit_to_images(annotations)
        transform = self.train_transform if train else self.val_transform
        return DetectionDataset(fitted, transform, self.seed, self.on_error)
