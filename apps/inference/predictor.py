"""Base of the Python API of every job: load a model, read and batch images, run it, decode."""

import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    Union,
    cast,
)

import numpy as np
from PIL import Image, ImageOps

from ...datasets.errors import DataError
from ...datasets.images import (
    URL_PREFIXES,
    ImageAtUrl,
    ImageFile,
    center_crop,
    rgb_pixels,
    stretch,
)
from ...heads.trust import trusting
from ..public import find_model
from .runtime import EXPORTED_SUFFIXES, ModelMetadata, Runtime, open_runtime, whole_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.task import ImageTask
    from .torch import Prepare

ImageLike = Union[str, os.PathLike[str], Image.Image, np.ndarray, "Tensor"]
"""One image: a file, a URL, a Pillow image, an array (H, W, 3) or a tensor (3, H, W)."""

CHECKPOINT_SUFFIX = ".ckpt"
_MAX_THREADS = 4

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class ImageSource(Protocol):
    """An image that is decoded on demand, such as ``datasets.images.ImageFile``."""

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, EXIF rotation applied; raises DataError."""
        ...


class MemoryImage:
    """An image in memory, which is not converted until it is read.

    Args:
        source: A Pillow image of any mode; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            uint8, gray or RGB with or without alpha; or a tensor (H, W), (1, H, W), (3, H, W) or
            (4, H, W), uint8 or float in [0, 1], on any device.
        name: The name of the image in messages.
    """

    def __init__(self, source: "Image.Image | np.ndarray | Tensor", name: str = "image") -> None:
        self.source = source
        self.name = name

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; alpha is dropped, EXIF rotation of a Pillow image applied.

        Raises:
            DataError: The type or the shape is not supported, or a side has zero pixels.
        """
        if isinstance(self.source, Image.Image):
            return self._read_pillow(self.source)
        pixels = self._read_tensor(self.source) if is_tensor(self.source) else self.source
        return self._as_rgb(np.asarray(pixels))

    def _read_pillow(self, image: Image.Image) -> np.ndarray:
        if 0 in image.size:
            raise self._wrong_shape((image.height, image.width))
        try:
            return rgb_pixels(ImageOps.exif_transpose(image), self.name)
        except DataError:
            raise
        except Exception as error:  # Pillow decodes lazily, and raises nearly anything
            raise DataError(f"{self.name}: Pillow cannot decode it: {error}") from error

    def _read_tensor(self, tensor: Any) -> np.ndarray:
        pixels = tensor.detach().cpu()
        if pixels.is_floating_point():
            pixels = pixels.float()
            if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):
                raise DataError(
                    f"{self.name}: pixels of float tensors must be in [0, 1], but these range from "
                    f"{pixels.min():.4g} to {pixels.max():.4g}. Give uint8 in [0, 255], or undo "
                    "the normalization, which is part of the network."
                )
            pixels = (pixels * 255).round().byte()
        array = pixels.numpy()
        return array.transpose(1, 2, 0) if array.ndim == 3 else array

    def _as_rgb(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(
                f"{self.name}: pixels are {pixels.dtype}. Give uint8 RGB in [0, 255]; convert "
                "floats in [0, 1] by (pixels * 255).round().astype('uint8')."
            )
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] not in (1, 3, 4):
            raise self._wrong_shape(pixels.shape)
        if pixels.shape[2] != 3:
            pixels = pixels[..., [0, 0, 0] if pixels.shape[2] == 1 else [0, 1, 2]]
        return np.ascontiguousarray(pixels)

    def _wrong_shape(self, shape: tuple[int, ...]) -> DataError:
        return DataError(
            f"{self.name}: an image of shape {tuple(shape)}. Arrays are (height, width, 3), "
            "tensors (3, height, width), and no side is zero; transpose it or check its source."
        )


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_images(images: ImageLike | Iterable[ImageLike]) -> tuple[Iterator[ImageSource], bool]:
    """Convert one image or several to image sources.

    Args:
        images: One image, or any iterable of images, which is consumed lazily. An array
            (B, H, W, C) or a tensor (B, C, H, W) is B images.

    Returns:
        The images in order, and whether there was a single one.

    Raises:
        DataError: It is no image; within an iterable, when the iterator reaches it.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return iter([_as_image(images, "image")]), True
    if isinstance(images, np.ndarray) or is_tensor(images):
        if images.ndim != 4:  # type: ignore[union-attr]
            return iter([_as_image(images, "image")]), True
    elif not isinstance(images, Iterable):
        raise _no_image(images, "image")
    return (_as_image(image, f"image {index}") for index, image in enumerate(images)), False  # type: ignore[arg-type]


def _as_image(image: Any, name: str) -> ImageSource:
    if isinstance(image, str) and image.startswith(URL_PREFIXES):
        return ImageAtUrl(image)
    if isinstance(image, str | os.PathLike):
        return ImageFile(Path(image))
    if isinstance(image, Image.Image | np.ndarray) or is_tensor(image):
        return MemoryImage(image, name)
    raise _no_image(image, name)


def _no_image(value: Any, name: str) -> DataError:
    return DataError(
        f"{name}: {type(value).__name__} is no image. Give a path, a Pillow image, an array "
        "(height, width, 3) uint8 RGB or a tensor (3, height, width)."
    )


def prepare_ahead(
    items: Iterable[P], prepare: Callable[[P], T], ahead: int
) -> Iterator[tuple[P, T | DataError]]:
    """Prepare items in background threads while the caller works on the ones before.

    At most ``ahead`` results are kept, so memory does not grow with the number of items. A single
    item is prepared without threads.

    Args:
        items: The items, such as images to decode.
        prepare: Called once for each item, from several threads.
        ahead: At least 1.

    Yields:
        Each item, in order, with its result or the DataError that was raised.
    """
    source = iter(items)
    first = list(islice(source, 2))
    if len(first) < 2:
        yield from ((item, _attempt(prepare, item)) for item in first)
        return
    threads = max(1, min(_MAX_THREADS, ahead, os.cpu_count() or 1))
    waiting: deque[tuple[P, Future[T | DataError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        for item in chain(first, source):
            waiting.append((item, pool.submit(_attempt, prepare, item)))
            if len(waiting) >= ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(prepare: Callable[[P], T], item: P) -> T | DataError:
    try:
        return prepare(item)
    except DataError as error:
        return error


class Prepared(NamedTuple):
    """An image as the input of a network."""

    pixels: np.ndarray
    """(h, w, 3) uint8 RGB, of the network's input size."""
    size_hw: tuple[int, int]
    """Of the original image, in pixels."""


class Predictor(ABC, Generic[R]):
    """A model that predicts images of any kind; each job has a subclass.

    A subclass defines the LightningModule (``task_class``), the outputs of the network
    (``outputs``), the metadata of an exported file (``describe``), and how a result is made of the
    outputs (``decode``). Checkpoints and ``mobilevision export`` both use the first three.

    Args:
        runtime: Runs the network; ``load`` makes one.

    Attributes:
        job: The name of the job in files.
        hint: Where to get a model, for messages.
        default: The public name of the model that is loaded where none is given, if there is one.
        columns: Name -> type of the columns of a table of results, see ``rows``.
        crop_fraction: Side of the central part of an image that the network sees, relative to the
            whole; None stretches the whole image.
    """

    job: ClassVar[str]
    hint: ClassVar[str] = "Give a checkpoint of `lightning fit` or an exported file."
    default: ClassVar[str | None] = None
    columns: ClassVar[dict[str, type]] = {}
    crop_fraction: float | None = None

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    # --- defined by each job

    @staticmethod
    @abstractmethod
    def task_class() -> "type[ImageTask]":
        """Return the LightningModule that trains such models; imports torch."""

    @classmethod
    @abstractmethod
    def describe(cls, task: Any, size_hw: tuple[int, int]) -> ModelMetadata:
        """Return the metadata of a task's model, without license and provenance."""

    @staticmethod
    @abstractmethod
    def outputs(
        network: "nn.Module",
        pixels: "Tensor",
        size_hw: tuple[int, int],
        image_hw: tuple[Any, Any] | None,
        /,
    ) -> "tuple[Tensor, ...]":
        """Run a network and return the outputs that ``describe`` names, in order.

        Args:
            network: Made by ``adapted``.
            pixels: (B, 3, h, w) uint8 RGB, of the network's input size.
            size_hw: That size.
            image_hw: See ``AdaptedNetwork``.
        """

    @staticmethod
    def adapted(task: Any, prepare: "Prepare") -> "nn.Module":
        """Return the first argument of ``outputs``: a prepared copy of the task's network."""
        return prepare(task.network)

    @staticmethod
    def fit(pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """Resize a whole image (H, W, 3) uint8 to (h, w, 3), as in evaluation: stretched."""
        return stretch(pixels, size_hw)

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],
        **options: Any,
    ) -> Iterable[R]:
        """Return a result for each of B images.

        Args:
            outputs: Name -> array (B, ...).
            images: The images, and their pixels at the network's input size.
            **options: Options of the job.
        """
        raise NotImplementedError

    def rows(self, result: R) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a table for an image: plain values in the order of ``columns``."""
        raise NotImplementedError

    def draw(self, pixels: np.ndarray, result: R) -> np.ndarray:
        """Draw a result onto its image (H, W, 3) uint8 RGB; returns a new image, maybe larger."""
        raise NotImplementedError

    def prepare(self, image: ImageSource) -> Prepared:
        """Read an image and resize it to the network's input size, as in evaluation."""
        pixels = image.read()
        original_hw = (pixels.shape[0], pixels.shape[1])
        if self.crop_fraction is None:
            return Prepared(self.fit(pixels, self.size_hw), original_hw)
        return Prepared(center_crop(pixels, self.size_hw, self.crop_fraction), original_hw)

    # --- shared by all jobs

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        trust: Iterable[str] = (),
    ) -> Self:
        """Load a public model, a checkpoint, or a file that ``mobilevision export`` wrote.

        Args:
            path: The file, or a name of ``mobilevision weights list``, whose weights are downloaded
                and converted on first use. None takes the ``default``.
            device: "auto" takes an accelerator if there is one, else the CPU. Other names are
                those of the runtime, such as "cpu" or "cuda:1".
            size_hw: Height and width of the network's input; None takes those of training.
            trust: Packages whose classes a checkpoint may name, in addition to this one. Never
                trust any for a file from a stranger.

        Raises:
            DataError: There is no such file or device, no model of this job in it, or the weights
                of a public name cannot be downloaded.
        """
        path = cls.find(path, size_hw)
        if path.suffix != CHECKPOINT_SUFFIX:
            runtime = open_runtime(path, device)
            page = cls._kind(lambda each: each.job == runtime.metadata.job)
            return page(page.accept(runtime, path, size_hw))
        try:
            from ...heads.checkpoint import load_task
        except ModuleNotFoundError as error:
            raise whole_install(f"{path}: a checkpoint", error) from error

        with trusting(trust) if trust else nullcontext():
            task = load_task(path, cls.task_class())
        page: type[Self] = cls
        if type(task) is not cls.task_class():
            page = cls._kind(lambda each: isinstance(task, each.task_class()))
        return page.of_task(task, device, size_hw, str(path))

    @classmethod
    def of_task(
        cls, task: "ImageTask", device: str, size_hw: tuple[int, int] | None, source: str
    ) -> Self:
        """Make the predictor of a task that was loaded from ``source``; see ``load``."""
        from .torch import run_task

        return cls(run_task(cls, task, device, size_hw, source))

    @classmethod
    def _kind(cls, fits: "Callable[[type[Self]], bool]") -> "type[Self]":
        """Return the first of the special kinds of this page that fits, else the page itself."""
        return next(filter(fits, cls._kinds()), cls)

    @classmethod
    def _kinds(cls) -> "list[type[Self]]":
        """Return this page and the pages of special kinds of its job, which come first."""
        from .jobs import PREDICTORS  # which imports this module

        return [each for each in PREDICTORS if issubclass(each, cls)] or [cls]

    @classmethod
    def find(cls, model: str | Path | None = None, size_hw: tuple[int, int] | None = None) -> Path:
        """Return the file of a model that ``load`` reads, see there.

        Raises:
            DataError: There is no such file or public name, its suffix is unknown, or the size is
                not positive.
        """
        model = model or cls.default
        if model is None:
            raise DataError(f"no model is given, and there is no public one. {cls.hint}")
        path = Path(model)
        if not path.exists():
            jobs = list(dict.fromkeys([cls.job, *(each.job for each in cls._kinds())]))
            path = find_model(model, jobs, cls.hint)
        known = (CHECKPOINT_SUFFIX, *EXPORTED_SUFFIXES)
        if path.suffix not in known:
            raise DataError(
                f"{path}: models are read from {', '.join(known)} files, not {path.suffix!r}."
            )
        if size_hw is not None and min(size_hw) < 1:
            raise DataError(f"size_hw={size_hw}: height and width must be at least 1.")
        return path

    @classmethod
    def accept(
        cls, runtime: Runtime, path: Path, size_hw: tuple[int, int] | None = None
    ) -> Runtime:
        """Return the runtime of an exported file if the file fits.

        Raises:
            DataError: The file is for another job, or its input size is another one.
        """
        job = runtime.metadata.job
        if job != cls.job:
            from .jobs import PREDICTORS  # which imports this module

            readers = [each.__name__ for each in PREDICTORS if each.job == job]
            remedy = f" Open it with {readers[0]}.load." if readers else ""
            raise DataError(f"{path}: is a model for {job}, not for {cls.job}.{remedy}")
        if size_hw is not None and tuple(size_hw) != runtime.metadata.size_hw:
            height, width = runtime.metadata.size_hw
            raise DataError(
                f"{path}: works at {height}x{width} px, which was decided when it was exported. "
                "Leave the size out, or export the checkpoint again with --size."
            )
        return runtime

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.runtime.metadata.size_hw

    @property
    def categories(self) -> dict[int, str]:
        """Id -> name of the classes; the position is the class index."""
        return self.runtime.metadata.categories

    def __call__(
        self, images: ImageLike | Iterable[ImageLike], batch_size: int = 16, **options: Any
    ) -> R | list[R]:
        """Predict one image or several.

        Args:
            images: A path, a URL, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor
                (3, H, W), or any iterable of them, of mixed kinds and sizes. Gray images, alpha
                and EXIF rotation are handled; see ``MemoryImage``.
            batch_size: Number of images that go through the network at once.
            **options: Options of the job, see ``decode``.

        Returns:
            A result for a single image, a list for anything else; an empty list for an empty one.

        Raises:
            DataError: An image cannot be read (``stream`` continues with the others), or an option
                is out of range.
        """
        sources, single = as_images(images)
        results: list[Any] = list(
            self.stream(sources, batch_size=batch_size, strict=True, **options)
        )
        return results[0] if single else results

    def stream(
        self,
        images: Iterable[ImageSource],
        batch_size: int = 16,
        strict: bool = False,
        **options: Any,
    ) -> Iterator[R | DataError]:
        """Predict any number of images, holding only a few of them in memory.

        Images are decoded in background threads, two batches ahead of the network.

        Args:
            images: For instance ``datasets.images.ImageFile`` objects; consumed lazily.
            batch_size: Number of images that go through the network at once.
            strict: Raise the error of an image that cannot be read instead of yielding it.
            **options: Options of the job, see ``decode``.

        Returns:
            For each image in order its result, or the error if it cannot be read.

        Raises:
            DataError: An option is out of range.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: must be at least 1")
        return self._run(images, batch_size, strict, **options)

    def _run(
        self, images: Iterable[ImageSource], batch_size: int, strict: bool, **options: Any
    ) -> Iterator[R | DataError]:
        prepared = prepare_ahead(images, self.prepare, ahead=2 * batch_size)
        while batch := list(islice(prepared, batch_size)):
            results: dict[int, R] = {}
            for rows in _by_shape([made for _, made in batch]):
                good = [(batch[row][0], cast(Prepared, batch[row][1])) for row in rows]
                outputs = self.runtime(np.stack([made.pixels for _, made in good]))
                results |= zip(rows, self.decode(outputs, good, **options), strict=True)
            for row, (_, made) in enumerate(batch):
                if strict and isinstance(made, DataError):
                    raise made
                yield made if isinstance(made, DataError) else results[row]


def _by_shape(batch: Sequence[Prepared | DataError]) -> Iterable[list[int]]:
    """Return the places of the images in a batch, those of one size together."""
    places: dict[tuple[int, ...], list[int]] = {}
    for row, made in enumerate(batch):
        if isinstance(made, Prepared):
            places.setdefault(made.pixels.shape, []).append(row)
    return places.values()
