"""Images as people have them, for every model's Python API: paths, Pillow, numpy and tensors.

Free of torch: a tensor is told by the module that its owner has imported.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Union

import numpy as np
from PIL import Image, ImageOps

from ...datasets.errors import DataError
from ...datasets.images import ImageFile, rgb_pixels

if TYPE_CHECKING:
    from torch import Tensor

ImageLike = Union[str, os.PathLike[str], Image.Image, np.ndarray, "Tensor"]
"""One image: a file, a Pillow image, an array (H, W, 3) or a tensor (3, H, W)."""

_MAX_THREADS = 4
_LARGEST_CHANNELS = 4

P = TypeVar("P")
T = TypeVar("T")


class ImageSource(Protocol):
    """An image that is read when it is asked for; ``datasets.images.ImageFile`` is one."""

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, EXIF rotation applied; raises DataError."""
        ...


class MemoryImage:
    """An image that somebody holds in memory; nothing is converted until it is read.

    Args:
        source: A Pillow image of any mode; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            uint8, gray or RGB with or without alpha; or a tensor (H, W), (1, H, W), (3, H, W) or
            (4, H, W), uint8 or float in [0, 1], on any device.
        name: What messages call it.
    """

    def __init__(self, source: "Image.Image | np.ndarray | Tensor", name: str = "image") -> None:
        self.source = source
        self.name = name

    def __repr__(self) -> str:
        return f"MemoryImage({self.name!r})"

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; alpha is dropped, EXIF rotation of a Pillow image applied.

        Raises:
            DataError: Another type of pixels or another shape, or a side of zero pixels.
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
        except Exception as error:  # Pillow reads its files late, and raises nearly anything
            raise DataError(f"{self.name}: Pillow cannot decode it: {error}") from error

    def _read_tensor(self, tensor: Any) -> np.ndarray:
        pixels = tensor.detach().cpu()
        if pixels.is_floating_point():
            pixels = pixels.float()
            if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):
                raise DataError(
                    f"{self.name}: float tensors hold pixels in [0, 1], this one reaches from "
                    f"{pixels.min():.4g} to {pixels.max():.4g}. Give uint8 in [0, 255], or undo "
                    "the normalization: the network does its own."
                )
            pixels = (pixels * 255).round().byte()
        array = pixels.numpy()
        return array.transpose(1, 2, 0) if array.ndim == 3 else array

    def _as_rgb(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(
                f"{self.name}: pixels are {pixels.dtype}. Give uint8 in [0, 255], RGB; for floats "
                "in [0, 1] that is (pixels * 255).round().astype('uint8')."
            )
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] not in (1, 3, 4):
            raise self._wrong_shape(pixels.shape)
        channels = [0, 0, 0] if pixels.shape[2] == 1 else [0, 1, 2]
        same = pixels.shape[2] == 3
        return np.ascontiguousarray(pixels if same else pixels[..., channels])

    def _wrong_shape(self, shape: tuple[int, ...]) -> DataError:
        return DataError(
            f"{self.name}: an image of shape {tuple(shape)}. Arrays are (height, width, 3), "
            "tensors (3, height, width), and no side is zero; transpose it or check where it "
            "comes from."
        )


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_images(images: ImageLike | Iterable[ImageLike]) -> tuple[Iterator[ImageSource], bool]:
    """Make images of what a caller has.

    Args:
        images: One image, or any iterable of images, which is read as it is used. An array
            (B, H, W, C) or a tensor (B, C, H, W) is B images.

    Returns:
        The images in their order, and whether it was a single one.

    Raises:
        DataError: It is neither; within an iterable, when the iterator comes to it.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return iter([_as_image(images, "image")]), True
    if isinstance(images, np.ndarray) or is_tensor(images):
        if images.ndim != 4:  # type: ignore[union-attr]
            return iter([_as_image(images, "image")]), True
    elif not isinstance(images, Iterable):
        raise _no_image(images, "image")
    many = enumerate(images)  # type: ignore[arg-type]
    return (_as_image(image, f"image {index}") for index, image in many), False


def _as_image(image: Any, name: str) -> ImageSource:
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
    """Prepare items in background threads while the caller works on those before.

    At most ``ahead`` results wait, so memory does not grow with the number of items. A single item
    is prepared without threads.

    Args:
        items: What to prepare, such as images to decode.
        prepare: Called once for each, from several threads.
        ahead: At least 1.

    Yields:
        Each item, in order, with what was made of it, or the DataError that was raised.
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
