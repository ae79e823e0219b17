"""A part of an image onto the network's input: its pixels, colors and objects.

What the augmentations share: where a part goes is a `Placement`, and this carries it out.
"""

import random

import cv2
import numpy as np

from ..errors import DataError
from ..images import ImageFile
from .geometry import MIN_BOX_PX, Objects, Placement, Rect, center_inside
from .quiet_albumentations import A

_AREA_ABOVE = 3.0
"""Shrinking beyond this averages areas: bilinear sampling would skip whole pixels."""


def draw_placement(
    image: ImageFile,
    placement: Placement,
    photometric: A.BasicTransform | A.BaseCompose,
    fill_rgb: tuple[int, int, int],
) -> np.ndarray:
    """Read the window of a placement, distort its colors and lay it over the output.

    Args:
        image: The file.
        placement: Which part of it goes where.
        photometric: Changes the colors of what is seen, at the output's size.
        fill_rgb: The color of what stays free.

    Returns:
        (h, w, 3) uint8 RGB of the placement's size.

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
    distorted = photometric(image=part)["image"]
    if distorted.shape != part.shape or distorted.dtype != np.uint8:
        raise DataError(
            f"photometric turned {part.shape} uint8 into {distorted.shape} {distorted.dtype}: "
            "name an operation that changes colors alone."
        )
    height, width = placement.size_hw
    if placement.mirror:
        distorted, x0, x1 = cv2.flip(distorted, 1), width - x1, width - x0
    if distorted.shape[:2] == placement.size_hw:
        return distorted
    return cv2.copyMakeBorder(
        distorted, y0, height - y1, x0, width - x1, cv2.BORDER_CONSTANT, value=fill_rgb
    )


def move_objects(objects: Objects, crop: Rect, placement: Placement) -> Objects:
    """The objects of an image as they are seen in the output of a placement.

    An object stays if its center lies in the crop, a crowd region if any of it is seen; of both at
    least `MIN_BOX_PX` of each side must be left. They are clipped.

    Args:
        objects: In pixels of the whole image.
        crop: What the placement was made from.
        placement: Where that goes.
    """
    inside = objects.crowd | center_inside(objects.boxes, np.array(crop))
    moved = objects._replace(boxes=placement.move(objects.boxes))
    return moved.select(inside & large_enough(moved.boxes))


def seed_operation(operation: A.BasicTransform | A.BaseCompose, rng: np.random.Generator) -> None:
    """Give an albumentations operation, and all inside it, generators that follow from ``rng``."""
    seed = int(rng.integers(2**63))
    operation.set_random_state(np.random.default_rng(seed), random.Random(seed))


def large_enough(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which of (N, 4) xyxy boxes measure at least `MIN_BOX_PX` on both sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides[:, 0] >= MIN_BOX_PX) & (sides[:, 1] >= MIN_BOX_PX)
