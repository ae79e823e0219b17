"""Shared steps of the augmentations: options, colors, and carrying out a `Placement`."""

import random

import cv2
import numpy as np

from ..errors import DataError
from ..images import ImageFile
from .geometry import MIN_BOX_PX, Objects, Placement, Rect, center_inside
from .quiet_albumentations import A

_AREA_ABOVE = 3.0
"""Shrinking beyond this averages areas: bilinear sampling would skip whole pixels."""

Photometric = A.BasicTransform | A.BaseCompose


def check_option(name: str, value: object, good: object) -> None:
    """Raise a `DataError` that names an option unless it is ``good``."""
    if not good:
        raise DataError(f"{name}={value!r} is out of its range; see the options of the transform.")


def checked_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width; raise a `DataError` unless they are positive."""
    height, width = size_hw
    check_option("size_hw", size_hw, height >= 1 and width >= 1)
    return height, width


def distort_colors(
    photometric: Photometric, pixels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Apply an operation on colors to (H, W, 3) uint8, with its randomness drawn from ``rng``.

    It is a `DataError` if it changes shape or dtype.
    """
    seed_operation(photometric, rng)
    distorted = photometric(image=pixels)["image"]
    if distorted.shape != pixels.shape or distorted.dtype != np.uint8:
        raise DataError(
            f"photometric turned {pixels.shape} uint8 into {distorted.shape} {distorted.dtype}: "
            "name an operation that changes colors alone."
        )
    return distorted


def draw_placement(
    image: ImageFile,
    placement: Placement,
    photometric: Photometric,
    fill_rgb: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Read the window of a placement, distort its colors and put it into the output.

    ``photometric`` changes the colors of the window at the output's size; ``fill_rgb`` is the
    color of the rest of the output, (h, w, 3) uint8 RGB of the placement's size.

    Raises:
        DataError: The image cannot be read, or ``photometric`` changes shape or dtype.
    """
    left, top, right, bottom = placement.window
    x0, y0, x1, y1 = placement.target
    part = image.read(placement.reduce)[top:bottom, left:right]
    shrink = (right - left) / (x1 - x0), (bottom - top) / (y1 - y0)
    average = min(shrink) >= 1.0 and max(shrink) > _AREA_ABOVE
    part = cv2.resize(
        part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA if average else cv2.INTER_LINEAR
    )
    distorted = distort_colors(photometric, part, rng)
    height, width = placement.size_hw
    if placement.mirror:
        distorted, x0, x1 = cv2.flip(distorted, 1), width - x1, width - x0
    if distorted.shape[:2] == placement.size_hw:
        return distorted
    return cv2.copyMakeBorder(
        distorted, y0, height - y1, x0, width - x1, cv2.BORDER_CONSTANT, value=fill_rgb
    )


def move_objects(objects: Objects, crop: Rect, placement: Placement) -> Objects:
    """Map the objects of an image to the output of a placement and clip them.

    An object stays if its center lies in the crop, a crowd region if any of it is visible; of both
    at least `MIN_BOX_PX` of each side must be left. Objects and the crop, which the placement was
    made from, are in pixels of the whole image.
    """
    inside = objects.crowd | center_inside(objects.boxes, np.array(crop))
    points = objects.landmarks
    moved = objects._replace(
        boxes=placement.move(objects.boxes),
        landmarks=None if points is None else placement.move_landmarks(points),
    )
    return moved.select(inside & large_enough(moved.boxes))


def seed_operation(operation: Photometric, rng: np.random.Generator) -> None:
    """Seed the generators of an albumentations operation, and of all inside it, from ``rng``."""
    seed = int(rng.integers(2**63))
    operation.set_random_state(np.random.default_rng(seed), random.Random(seed))


def large_enough(boxes: np.ndarray) -> np.ndarray:
    """Return (N,) bool: whether xyxy boxes (N, 4) measure at least `MIN_BOX_PX` on both sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides[:, 0] >= MIN_BOX_PX) & (sides[:, 1] >= MIN_BOX_PX)
