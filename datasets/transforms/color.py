"""SSD's color distortion as one matrix, as an albumentations operation."""

from typing import Any

import cv2
import numpy as np

from ..errors import DataError
from .quiet_albumentations import A

_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float64
)
"""NTSC: the first axis is brightness; rotating the other two changes the hue."""
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class ColorDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with its own chance, in one pass.

    The four that SSD uses (Liu et al. 2016, section 2.2, after Howard 2013), with the ranges of the
    authors' code. All are linear in RGB, so they are multiplied into one 3x4 matrix and rounded and
    clipped once; hue turns the YIQ plane instead of HSV's hexagon. Several times as fast as
    ``albumentations.ColorJitter`` at 300x300. Works on (H, W, 3) uint8 RGB.

    Args:
        brightness: The most that is added or taken away, of 255.
        contrast: Range of the factor on all values.
        saturation: Range of the factor on the distance from gray.
        hue_deg: The most that the hue is turned, in degrees, either way.
        each_p: Chance of each of the four.
        p: Chance of any distortion at all.

    Raises:
        DataError: An amount is negative or a range is not rising.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue_deg: float = 36.0,
        each_p: float = 0.5,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        for name, (low, high) in {"contrast": contrast, "saturation": saturation}.items():
            if not 0 <= low <= high:
                raise DataError(f"{name} must be a range 0 <= low <= high, got ({low}, {high})")
        if not (brightness >= 0 and hue_deg >= 0 and 0 <= each_p <= 1):
            raise DataError(
                "brightness and hue_deg must not be negative and each_p must lie in [0, 1], got "
                f"{brightness}, {hue_deg} and {each_p}"
            )
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue_deg = hue_deg
        self.each_p = each_p

    def get_params(self) -> dict[str, Any]:
        """Draw the matrix, (3, 4) float32, from the operation's own generator."""
        rng = self.random_generator
        chosen = rng.random(4) < self.each_p
        return {
            "matrix": color_matrix(
                brightness=rng.uniform(-self.brightness, self.brightness) * chosen[0],
                contrast=rng.uniform(*self.contrast) if chosen[1] else 1.0,
                saturation=rng.uniform(*self.saturation) if chosen[2] else 1.0,
                hue_deg=rng.uniform(-self.hue_deg, self.hue_deg) * chosen[3],
            )
        }

    def apply(self, img: np.ndarray, matrix: np.ndarray, **_: Any) -> np.ndarray:
        """Apply the matrix to (H, W, 3) uint8 RGB."""
        return cv2.transform(img, matrix)


def color_matrix(
    brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0, hue_deg: float = 0.0
) -> np.ndarray:
    """Return the affine map of RGB values in [0, 255], (3, 4) float32; the last column is added.

    ``brightness`` is added to every value, of 255; ``contrast`` is a factor on every value,
    ``saturation`` one on the distance from gray; ``hue_deg`` turns the hue, in degrees.
    """
    angle = np.deg2rad(hue_deg)
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    matrix = contrast * (_FROM_YIQ @ turn @ _TO_YIQ)
    return np.column_stack([matrix, np.full(3, brightness)]).astype(np.float32)
