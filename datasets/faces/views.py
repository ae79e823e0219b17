"""Random views of faces for the distillation of a teacher.

A student of a few thousand faces overfits them. But a teacher embeds any image, also a blend of two
faces. So a view is drawn once, embedded once by the teacher and cached, and drawn again, exactly
the same, in every training.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from ..errors import DataError
from ..images import ImageFile, stretch
from .alignment import ARCFACE_SIZE, ARCFACE_TEMPLATE, fit_similarity, scaled_template, warp_face
from .sources import Faces

_CENTER = np.array([56.0, 66.0]) + 0.5  # of the template's face, from the image's corner
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class ViewRecipe:
    """The strength of views. Lengths are in px of a 112 px crop, and grow with it.

    Args:
        rotation_deg: Standard deviation of the rotation.
        scale: Standard deviation of the logarithm of the size.
        aspect: Standard deviation of the logarithm of width and height each.
        shift: Standard deviation of the shift of x and y.
        mirror: Probability of a mirror image.
        blend: Probability of a weighted sum of two aligned faces, 1/4 to 3/4 of each.
        patchwork: Probability of a face with regions of another, under a smooth mask.
        warp: Probability of a smooth elastic deformation.
        warp_strength: Largest standard deviation of its displacements.
        brightness: Standard deviation of the logarithm of the brightness.
        contrast: Standard deviation of the logarithm of the contrast.
        colour: Standard deviation of the logarithm of each channel's gain.
        grey: Probability of a gray image.
        low_resolution: Probability of a resize to between 40 and 100 px and back.
        blur: Probability of a Gaussian blur with a standard deviation of 0.5 to 1.5.

    Raises:
        DataError: A number is negative, or probabilities exceed 1.
    """

    rotation_deg: float = 6.0
    scale: float = 0.05
    aspect: float = 0.04
    shift: float = 2.5
    mirror: float = 0.5
    blend: float = 0.35
    patchwork: float = 0.25
    warp: float = 0.5
    warp_strength: float = 3.5
    brightness: float = 0.2
    contrast: float = 0.2
    colour: float = 0.07
    grey: float = 0.15
    low_resolution: float = 0.3
    blur: float = 0.1

    def __post_init__(self) -> None:
        values = asdict(self)
        chances = ("mirror", "warp", "grey", "low_resolution", "blur")
        too_much = self.blend + self.patchwork > 1 or any(values[name] > 1 for name in chances)
        if too_much or min(values.values()) < 0:
            raise DataError(
                f"views: {values}: nothing may be negative, no probability above 1, nor blend and "
                "patchwork together"
            )


class FaceViews:
    """Views of faces, functions of the seed, the file's name, the view and the list of files.

    View 0 is the plain aligned face. A view shows the same at the teacher's size and the
    student's. Faces are blended with others of the list, so other lists have other views.
    ``size`` is in px, and ``seed`` at least 0. ``keep_images`` holds decoded files in memory.
    """

    def __init__(
        self,
        faces: Faces,
        size: int = ARCFACE_SIZE,
        seed: int = 0,
        recipe: ViewRecipe | None = None,
        keep_images: bool = False,
    ) -> None:
        self.faces = faces
        self.size = size
        self.seed = seed
        self.recipe = recipe or ViewRecipe()
        self._images: dict[int, np.ndarray] | None = {} if keep_images else None

    def __len__(self) -> int:
        return len(self.faces.files)

    @property
    def fingerprint(self) -> str:
        """A hash that is equal if all views are, at any size; a table of embeddings keeps it."""
        content = [self.seed, asdict(self.recipe), *self.faces.files]
        digest = hashlib.sha256(json.dumps(content).encode())
        if self.faces.landmarks_xy is not None:
            digest.update(np.ascontiguousarray(self.faces.landmarks_xy, "<f8").tobytes())
        return digest.hexdigest()[:16]

    def render(self, index: int, view: int = 0, size: int | None = None) -> np.ndarray:
        """Draw a view, from 0, of the file at a position: (size, size, 3) uint8, RGB.

        Raises:
            DataError: An image cannot be read.
        """
        size = size or self.size
        if view == 0:
            return self._plain(index, size)
        return self._augmented(index, size, self._rng(index, view))

    def is_mixed(self, index: int, view: int) -> bool:
        """Return whether a view shows another face as well, so that it is nobody's."""
        if view == 0:
            return False
        rng = self._rng(index, view)
        self._draw_motion(rng, 1.0)
        return rng.random() < self.recipe.blend + self.recipe.patchwork

    def _rng(self, index: int, view: int) -> np.random.Generator:
        name = hashlib.sha256(self.faces.files[index].encode()).digest()[:8]
        return np.random.default_rng((self.seed, view, int.from_bytes(name)))

    def _plain(self, index: int, size: int) -> np.ndarray:
        image = self._read(index)
        if self.faces.landmarks_xy is None:
            return stretch(image, (size, size))
        return warp_face(image, self._matrix(index, image, size), size)

    def _read(self, index: int) -> np.ndarray:
        kept = self._images if self._images is not None else {}
        if index not in kept:
            kept[index] = ImageFile(self.faces.root / self.faces.files[index]).read()
        return kept[index]

    def _matrix(self, index: int, image: np.ndarray, size: int) -> np.ndarray:
        """Return the affine transform (2, 3) from the file's pixels to the crop's."""
        if self.faces.landmarks_xy is not None:
            target = scaled_template(size, ARCFACE_TEMPLATE)
            return fit_similarity(self.faces.landmarks_xy[index], target)
        scale = np.array([size / image.shape[1], size / image.shape[0]])
        return np.column_stack([np.diag(scale), (scale - 1) / 2])

    def _augmented(self, index: int, size: int, rng: np.random.Generator) -> np.ndarray:
        recipe = self.recipe
        face = self._moved(index, size, rng, 1.0).astype(np.float32)
        kind = rng.random()
        if kind < recipe.blend:
            share = rng.uniform(0.25, 0.75)
            face = share * face + (1 - share) * self._another(size, rng)
        elif kind < recipe.blend + recipe.patchwork:
            field = _field(rng, 4, 1, size)[..., None]
            mask = 1 / (1 + np.exp(-6 * (field - rng.normal(0, 0.5))))
            face = mask * face + (1 - mask) * self._another(size, rng)
        if rng.random() < recipe.warp:
            unit = rng.uniform(0, recipe.warp_strength) * size / ARCFACE_SIZE
            face = _warped(face, _field(rng, 5, 2, size) * unit)
        return _photographed(face.astype(np.float32), recipe, rng)

    def _another(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return self._moved(int(rng.integers(len(self))), size, rng, 0.5)

    def _draw_motion(
        self, rng: np.random.Generator, far: float
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Draw a linear map (2, 2), a shift (2,) in px of a 112 px crop, and whether to mirror."""
        recipe = self.recipe
        angle = math.radians(rng.normal(0, recipe.rotation_deg) * far)
        stretch = np.exp(rng.normal(0, (recipe.scale, recipe.aspect, recipe.aspect)) * far)
        shift = rng.normal(0, recipe.shift, 2) * far
        mirrored = rng.random() < recipe.mirror
        cosine, sine = math.cos(angle) * stretch[0], math.sin(angle) * stretch[0]
        linear = np.array([[cosine * stretch[1], -sine], [sine, cosine * stretch[2]]])
        return linear, shift, mirrored

    def _moved(self, index: int, size: int, rng: np.random.Generator, far: float) -> np.ndarray:
        """Draw a face at a random place, size and angle, resampled once from its file."""
        linear, shift, mirrored = self._draw_motion(rng, far)
        unit = size / ARCFACE_SIZE
        center = _CENTER * unit - 0.5
        image = self._read(index)
        base = self._matrix(index, image, size)
        moved = linear @ base
        # Rotate and scale about the center of the face, then shift.
        moved[:, 2] += center - linear @ center + shift * unit
        face = warp_face(image, moved, size)
        return np.ascontiguousarray(face[:, ::-1]) if mirrored else face


def _field(rng: np.random.Generator, knots: int, channels: int, size: int) -> np.ndarray:
    """Draw smooth noise (size, size[, channels]) float32, alike at each size."""
    coarse = rng.normal(0, 1, (knots, knots, channels)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _warped(face: np.ndarray, field: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: face.shape[0], : face.shape[0]].astype(np.float32)
    x, y = columns + field[..., 0], rows + field[..., 1]
    return cv2.remap(face, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _photographed(face: np.ndarray, recipe: ViewRecipe, rng: np.random.Generator) -> np.ndarray:
    """Change light and camera: (H, W, 3) float32 to uint8."""
    size = face.shape[0]
    face = face * math.exp(rng.normal(0, recipe.brightness))
    mean = face.mean()
    face = (face - mean) * math.exp(rng.normal(0, recipe.contrast)) + mean
    face = face * np.exp(rng.normal(0, recipe.colour, 3)).astype(np.float32)
    if rng.random() < recipe.grey:
        face = np.repeat((face @ _LUMA)[..., None], 3, axis=2)
    pixels = np.clip(face, 0, 255).astype(np.uint8)
    if rng.random() < recipe.low_resolution:
        side = round(rng.uniform(40, 100) * size / ARCFACE_SIZE)
        small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < recipe.blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 1.5) * size / ARCFACE_SIZE)
    return pixels


def student_noise(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise of brightness, contrast and color to (H, W, 3) uint8, which no teacher sees.

    ``strength`` is the standard deviation of the logarithms of brightness and contrast; that of the
    channels' gains is 0.3 of it.
    """
    if strength <= 0:
        return pixels
    gains = np.exp(rng.normal(0, (strength, strength, *[0.3 * strength] * 3)))
    mean = float(pixels.mean()) * gains[0]
    # value -> ((value * brightness - mean) * contrast + mean) * channel, as a table of 256 entries
    values = np.arange(256, dtype=np.float64)[:, None]
    table = ((values * gains[0] - mean) * gains[1] + mean) * gains[2:]
    rounded = np.clip(np.round(table), 0, 255).astype(np.uint8)
    return cv2.LUT(pixels, np.ascontiguousarray(rounded[None]).reshape(256, 1, 3))
