"""Drawn faces, plain as a cartoon, which detectors that were trained on photos find."""

import cv2
import numpy as np

_SIDE = 256
_SKIN, _HAIR, _SHADE = (205, 160, 130), (60, 40, 30), (150, 100, 80)
_WHITE, _PUPIL, _LIPS = (255, 255, 255), (30, 20, 20), (170, 70, 70)
_ELLIPSES = (  # center, half axes, first angle, color
    ((128, 128), (97, 127), 0, _SKIN),
    ((128, 52), (90, 50), 180, _HAIR),
    ((90, 108), (18, 10), 0, _WHITE),
    ((166, 108), (18, 10), 0, _WHITE),
    ((90, 108), (9, 9), 0, _PUPIL),
    ((166, 108), (9, 9), 0, _PUPIL),
    ((90, 86), (18, 4), 0, _HAIR),
    ((166, 86), (18, 4), 0, _HAIR),
    ((128, 132), (6, 20), 0, _SHADE),
    ((128, 190), (36, 13), 0, _LIPS),
)


def draw_face(image: np.ndarray, left: int, top: int, side: int) -> None:
    """Draw a face into a square of an image (H, W, 3) uint8 RGB, which must contain it."""
    face = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    mask = np.zeros((_SIDE, _SIDE), np.float32)
    for center, axes, first, color in _ELLIPSES:
        cv2.ellipse(face, center, axes, 0, first, 360, color, cv2.FILLED)
    cv2.ellipse(mask, *_ELLIPSES[0][:2], 0, 0, 360, (1,), cv2.FILLED)
    size = (side, side)
    face = cv2.resize(face, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)[..., None]
    square = image[top : top + side, left : left + side]
    square[:] = (face * mask + square * (1 - mask)).round()
