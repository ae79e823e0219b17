"""Decoding of image files to RGB arrays: any mode, upright, whole or at a fraction of their size.

OpenCV decodes JPEG in about two thirds of Pillow's time and gives the same pixels (both use
libjpeg-turbo), but it fills what is missing of a cut file with gray and says nothing. So JPEG files
are checked for their end marker first, and everything unusual goes through Pillow.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from .errors import DataError

REDUCTIONS = (1, 2, 4, 8)
"""The fractions 1/r of its size at which a JPEG can be decoded."""

# The reduced flags name BGR in their lowest bit; the bare ones and IMREAD_COLOR_RGB give RGB.
_REDUCED_FLAGS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_JPEG = ("JPEG", "MPO")
_MIRRORED_AXES = {2: "x", 3: "xy", 4: "y", 6: "x", 7: "xy", 8: "y"}
"""Axes to reverse for each EXIF orientation, after the transposition of 5 to 8."""
_PNG_ROTATION_MARKS = (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp")

IMAGENET_CROP = 0.875
"""Side of the central crop of ImageNet's evaluation: "resize to 256, crop 224"."""
MEAN_RGB = (123, 117, 104)
"""The mean color of ImageNet's images."""
_MAX_PIXELS = "MOBILEVISION_MAX_PIXELS"
if _MAX_PIXELS in os.environ:
    if not os.environ[_MAX_PIXELS].isdecimal():
        raise DataError(f"{_MAX_PIXELS}={os.environ[_MAX_PIXELS]} must be a number of pixels")
    Image.MAX_IMAGE_PIXELS = int(os.environ[_MAX_PIXELS])
# `open_image` refuses what Pillow warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class _Header(NamedTuple):
    size_hw: tuple[int, int]
    """Stored size, before rotation."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    fast: bool
    """True if OpenCV may decode it."""


def open_image(file: str | Path | IO[bytes], name: str) -> Image.Image:
    """Open an image with Pillow, its pixels not decoded yet, unless it has too many of them.

    The limit is ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million pixels), which the environment variable
    ``MOBILEVISION_MAX_PIXELS`` sets. A JPEG may have twice as many, since it is decoded without
    copies and at a fraction of its size where that is enough.

    Raises:
        DataError: It has more pixels than the limit.
        Exception: Nearly anything if it is absent, damaged or no image.
    """
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.format not in _JPEG and image.width * image.height > limit:
        image.close()
        raise _too_large(name)
    return image


def _too_large(name: str) -> DataError:
    return DataError(
        f"{name}: more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, or a file made to exhaust the "
        f"memory. If it is sound, scale it down or set {_MAX_PIXELS} to more"
    )


class ImageFile:
    """An image on disk, in any format of Pillow; nothing is read until it is asked for.

    Cheap to build and to pickle. The header is read once and remembered. The format is told by
    its bytes, not by its name.
    """

    restore = "Restore the file from its source, or remove it and its annotations."
    """The remedy for a damaged file, in messages."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def _open(self) -> Image.Image:
        return open_image(self.path, str(self.path))

    def _read_bytes(self) -> bytes:
        return self.path.read_bytes()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels, EXIF rotation applied, from the header alone.

        A missing, empty or too large file, and one that is no image, is a `DataError`.
        """
        height, width = self._header.size_hw
        return (width, height) if self._header.orientation >= 5 else (height, width)

    def read(self, reduce: int = 1) -> np.ndarray:
        """Decode the image: (ceil(H / reduce), ceil(W / reduce), 3) uint8, RGB, contiguous.

        EXIF rotation is applied. Pixel (i, j) of the result covers rows [i * reduce, (i +
        1) * reduce) and the same columns of the whole image, also if EXIF rotation mirrors
        a size that ``reduce`` does not divide. Alpha is dropped, 16-bit gray is scaled to 8
        bits, and of an animation the first frame is decoded. ``reduce`` is 1, 2, 4 or 8.
        JPEG is decoded at that fraction of its size, which saves time; other formats are
        decoded whole and averaged.

        Raises:
            DataError: The file is missing, empty, cut short, broken, no image, has too many
                pixels, or holds values that have no agreed 8-bit form (float, 32-bit integer).
            ValueError: ``reduce`` is none of the four.
        """
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be one of {REDUCTIONS}, got {reduce}")
        header = self._header
        with self._explained():
            data = self._read_bytes()
            decode_reduced = reduce if _is_aligned(header, reduce) else 1
            pixels = self._decode_fast(data, decode_reduced) if header.fast else None
            if pixels is None:
                with open_image(io.BytesIO(data), str(self.path)) as image:
                    pixels = rgb_pixels(image, str(self.path), decode_reduced)
        pixels = _rotate(pixels, header.orientation)
        if decode_reduced != reduce:
            pixels = np.array(Image.fromarray(pixels).reduce(reduce))
        height, width = self.size_hw
        if pixels.shape != (-(-height // reduce), -(-width // reduce), 3):
            raise DataError(
                f"{self.path}: decoded to {pixels.shape[1]}x{pixels.shape[0]} pixels at "
                f"1/{reduce}, but its header says {width}x{height}. {self.restore}"
            )
        return np.ascontiguousarray(pixels)

    def _decode_fast(self, data: bytes, reduce: int) -> np.ndarray | None:
        """Decode a gray or three-channel JPEG with OpenCV; None if Pillow should try."""
        scan = _first_scan(data)
        if scan is None:
            return None
        if data.rfind(b"\xff\xd9", scan) < 0:
            # Also true for a file that was filled up with zeros, which Pillow takes for pixels.
            raise DataError(
                f"{self.path}: the JPEG is cut short: its end marker is missing after {len(data)} "
                f"bytes. {self.restore}"
            )
        flags = _REDUCED_FLAGS[reduce] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None

    @cached_property
    def _header(self) -> _Header:
        with self._explained(), self._open() as image:
            return _Header(
                size_hw=(image.height, image.width),
                orientation=self._orientation(image),
                fast=image.format in _JPEG and image.mode in ("RGB", "L"),
            )

    def _orientation(self, image: Image.Image) -> int:
        """Return the EXIF orientation 1 to 8; 1 if there is none, or none that can be read."""
        # Pillow applies the orientation of a TIFF itself, and decodes a whole PNG in search of one.
        if image.format == "TIFF":
            return 1
        if image.format == "PNG":
            data = self._read_bytes()
            if not any(mark in data for mark in _PNG_ROTATION_MARKS):
                return 1
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:
            # Damaged metadata in a sound image: every decoder shows it as it is stored.
            return 1
        return orientation if orientation in range(1, 9) else 1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the error of an attempt to open or decode into a `DataError`.

        Decoders raise nearly anything on damaged bytes (OSError, SyntaxError, struct.error, ...).
        """
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.path}: {self._explain(error)}") from error

    def _explain(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return (
                "no such file. Check the image folder and the file name in the annotations, or "
                "download the missing image."
            )
        if isinstance(error, IsADirectoryError | PermissionError):
            return f"cannot be read: {error.strerror}. Name a readable image file."
        if self.path.is_file() and self.path.stat().st_size == 0:
            return f"the file is empty (0 bytes). {self.restore}"
        if isinstance(error, Image.UnidentifiedImageError):
            return f"not an image in any known format. {self.restore}"
        return f"broken image: {error}. {self.restore}"


URL_PREFIXES = ("http://", "https://")
_MOST_BYTES = 2**26


class ImageAtUrl(ImageFile):
    """An image at an address, which is fetched when it is first read, 64 MiB at the most."""

    restore = "Check the address."

    def __init__(self, url: str) -> None:
        from .download import without_password

        super().__init__(without_password(url).partition("://")[2])
        self.url = url

    @cached_property
    def _content(self) -> bytes:
        from .download import fetch_bytes

        return fetch_bytes(self.url, _MOST_BYTES)

    def _read_bytes(self) -> bytes:
        return self._content

    def _open(self) -> Image.Image:
        return open_image(io.BytesIO(self._content), str(self.path))


def _is_aligned(header: _Header, reduce: int) -> bool:
    """Return whether a reduced image begins with whole blocks after rotation has mirrored it."""
    height, width = header.size_hw
    if header.orientation >= 5:
        height, width = width, height
    mirrored = _MIRRORED_AXES.get(header.orientation, "")
    return ("y" not in mirrored or height % reduce == 0) and (
        "x" not in mirrored or width % reduce == 0
    )


def _rotate(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    mirrored = _MIRRORED_AXES.get(orientation, "")
    return pixels[:: -1 if "y" in mirrored else 1, :: -1 if "x" in mirrored else 1]


def _first_scan(data: bytes) -> int | None:
    """Find where the first scan of a JPEG begins (ITU T.81, B.1.1.4); None if there is none.

    The segments before it are skipped, because an embedded thumbnail has its own end marker.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def rgb_pixels(image: Image.Image, name: str, reduce: int = 1) -> np.ndarray:
    """Convert a Pillow image of any mode to (h, w, 3) uint8 RGB, not rotated.

    Alpha is dropped, 16-bit gray is scaled to 8 bits, and ``reduce`` pixels in each direction
    are averaged to one. Float and 32-bit integer pixels are a `DataError`, which calls the
    image ``name``.
    """
    if image.mode in ("F", "I"):
        raise DataError(
            f"{name}: pixels of mode {image.mode!r} (32 bits) have no agreed brightness. "
            "Convert the image to 8 or 16 bits."
        )
    if image.mode.startswith("I;16"):
        gray = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.array(rgb if reduce == 1 else rgb.reduce(reduce))


def stretch(pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 to (h, w, 3) without keeping its aspect ratio.

    Bilinear with antialiasing, as Pillow does it: published ImageNet and COCO figures of this model
    family were measured so. Evaluation and prediction share this function. The result is writable.
    """
    return resize_part(pixels, (0.0, 0.0, pixels.shape[1], pixels.shape[0]), size_hw)


def resize_part(
    pixels: np.ndarray, box: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> np.ndarray:
    """Resize a part (left, top, right, bottom) of an image as `stretch` does."""
    height, width = pixels.shape[:2]
    if size_hw == (height, width) and box == (0, 0, width, height):
        return pixels.copy()
    left, top, right, bottom = box
    inside = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    small = Image.fromarray(pixels).resize(
        (size_hw[1], size_hw[0]), Image.Resampling.BILINEAR, inside
    )
    return np.array(small)


def fit_within(size_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image that is scaled, its shape kept, to lie within ``input_hw``."""
    scale = min(input_hw[0] / size_hw[0], input_hw[1] / size_hw[1])
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return min(height, input_hw[0]), min(width, input_hw[1])


def letterbox(
    pixels: np.ndarray, size_hw: tuple[int, int], fill_rgb: tuple[int, int, int] = MEAN_RGB
) -> np.ndarray:
    """Scale an image (H, W, 3) uint8 by `fit_within`, and fill (h, w, 3) up right and below."""
    small = stretch(pixels, fit_within((pixels.shape[0], pixels.shape[1]), size_hw))
    if small.shape[:2] == size_hw:
        return small
    canvas = np.empty((*size_hw, 3), np.uint8)
    canvas[:] = fill_rgb
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas


def center_crop(pixels: np.ndarray, size_hw: tuple[int, int], fraction: float) -> np.ndarray:
    """Crop the center of an image (H, W, 3) uint8 and resize it to ``size_hw``.

    The crop has the shape of the result, and a ``fraction`` in (0, 1] of the largest possible side.
    """
    height, width = pixels.shape[:2]
    unit = fraction * min(height / size_hw[0], width / size_hw[1])
    h, w = unit * size_hw[0], unit * size_hw[1]
    left, top = (width - w) / 2, (height - h) / 2
    return resize_part(pixels, (left, top, left + w, top + h), size_hw)
