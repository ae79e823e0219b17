"""Boxes and labels on an image: where the pixels change, and how."""

import numpy as np
import pytest
import torch

from mobilevision.apps.drawing import class_color, draw_detections, font, shortened
from mobilevision.datasets.types import Detections, DetectionTarget

NAMES = ["raccoon", "traffic light"]


def grey(height: int = 300, width: int = 400) -> np.ndarray:
    return np.full((height, width, 3), 127, np.uint8)


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    return Detections(
        torch.tensor([row[0] for row in rows]).reshape(-1, 4),
        torch.tensor([row[1] for row in rows]),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )


def truth(*boxes: list[float], label: int = 0, crowd: bool = False) -> DetectionTarget:
    count = len(boxes)
    corners = torch.tensor(boxes).reshape(-1, 4)
    return DetectionTarget(corners, torch.full((count,), label), torch.full((count,), crowd))


def has_color(image: np.ndarray, color: tuple[int, ...]) -> bool:
    return bool((image == color).all(axis=2).any())


def test_draw_detections__draws_the_box_in_the_color_of_the_class() -> None:
    box = [50.0, 80.0, 200.0, 240.0]
    drawn = draw_detections(grey(), detections((box, 0.9, 1)), NAMES)

    for y, x in ((160, 50), (160, 200), (240, 120)):
        assert tuple(drawn[y, x]) == class_color(1)
    assert tuple(drawn[160, 120]) == (127, 127, 127)


def test_draw_detections__does_not_change_its_image() -> None:
    image = grey()
    drawn = draw_detections(image, detections(([5, 5, 60, 60], 0.9, 0)), NAMES)

    assert np.array_equal(image, grey())
    assert (drawn.shape, drawn.dtype) == (image.shape, image.dtype)


def test_draw_detections__threshold_and_padding_are_left_out() -> None:
    found = detections(([5, 5, 60, 60], 0.25, 0), ([90, 90, 160, 160], 0.0, -1))

    assert np.array_equal(draw_detections(grey(), found, NAMES, 0.3), grey())
    assert not np.array_equal(draw_detections(grey(), found, NAMES, 0.25), grey())


def test_draw_detections__nothing_found_and_nothing_there() -> None:
    assert np.array_equal(draw_detections(grey(), detections(), NAMES, 0.3, truth()), grey())


@pytest.mark.parametrize("corner", [[0, 0, 40, 30], [360, 270, 400, 300], [-50, -9, 900, 700]])
def test_draw_detections__label_stays_whole_at_the_border(corner: list[float]) -> None:
    """The label has as many pixels of its color as in the middle of the image."""
    color = class_color(1)
    middle = draw_detections(grey(), detections(([150, 150, 190, 180], 0.9, 1)), NAMES)
    border = draw_detections(grey(), detections((corner, 0.9, 1)), NAMES)
    filled = int((middle == color).all(axis=2).sum()), int((border == color).all(axis=2).sum())

    assert filled[1] > 0.8 * filled[0] > 500


def with_landmarks(found: Detections) -> Detections:
    """Five points about the middle of each box, as far from each other as its tenth."""
    corners = found.boxes.float()
    middle, tenth = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 10
    star = torch.tensor([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]])
    return found._replace(landmarks=middle[:, None] + star * tenth[:, None])


def test_draw_detections__faces_side_by_side__no_label_hides_another() -> None:
    """Boxes of 20 px in a lattice, where the word and the score are wider than a face."""
    boxes = [[x, y, x + 20, y + 20] for y in range(60, 240, 24) for x in range(60, 340, 24)]
    found = detections(*((list(map(float, box)), 0.9, 0) for box in boxes))
    drawn = draw_detections(grey(), with_landmarks(found), NAMES)
    for x1, y1, x2, y2 in boxes:
        inside = drawn[y1 + 4 : y2 - 3, x1 + 4 : x2 - 3]
        assert not has_color(inside, class_color(0))
    hidden = draw_detections(grey(), found, NAMES)
    assert any(has_color(hidden[y1 + 4 : y2 - 3, x1 + 4 : x2 - 3], class_color(0))
               for x1, y1, x2, y2 in boxes)  # fmt: skip


def test_draw_detections__landmarks__small_on_small_faces() -> None:
    """On a face of 20 px the points leave most of it to be seen."""
    small = with_landmarks(detections(([100.0, 100, 120, 120], 0.9, 0)))
    large = with_landmarks(detections(([50.0, 80, 250, 280], 0.9, 0)))
    face = draw_detections(grey(), small, NAMES)[104:117, 104:117]
    assert 0.02 < (face != 127).any(axis=2).mean() < 0.4
    drawn = draw_detections(grey(), large, NAMES)
    assert tuple(drawn[160, 130]) == (255, 255, 255)
    assert tuple(drawn[170, 140]) == (127, 127, 127)


def test_draw_detections__labels_of_one_place_do_not_hide_each_other() -> None:
    found = detections(([80, 80, 260, 220], 0.9, 0), ([80, 80, 260, 220], 0.8, 1))
    both = draw_detections(grey(), found, NAMES)
    alone = draw_detections(grey(), detections(([80, 80, 260, 220], 0.8, 1)), NAMES)
    label = [int((image == class_color(1)).all(axis=2).sum()) for image in (both, alone)]
    line = 2 * 2 * (180 + 140)

    assert label[1] > line
    assert label[0] > label[1] - line


def test_draw_detections__truth_is_dashed_white() -> None:
    drawn = draw_detections(grey(), detections(), NAMES, 0.3, truth([50, 80, 200, 240]))
    edge = (drawn[240, 50:200] == 255).all(axis=1)

    assert 0.3 < edge.mean() < 0.8
    assert np.abs(np.diff(edge.astype(int))).sum() > 10


def test_draw_detections__missed_object_is_named_and_found_one_is_not() -> None:
    box = [50.0, 80.0, 200.0, 240.0]
    missed = draw_detections(grey(), detections(), NAMES, 0.3, truth(box))
    found = draw_detections(grey(), detections((box, 0.9, 0)), NAMES, 0.3, truth(box))
    other = draw_detections(grey(), detections((box, 0.9, 1)), NAMES, 0.3, truth(box))
    ink = np.abs(missed[40:80].astype(int) - 127).sum()

    assert ink > 10_000
    assert np.abs(other.astype(int) - found).sum() > 10_000
    plain = draw_detections(grey(), detections((box, 0.9, 0)), NAMES)
    changed = np.argwhere((plain != found).any(axis=2))
    inside = (changed >= (83, 53)).all(axis=1) & (changed <= (237, 197)).all(axis=1)
    assert not inside.any()


def test_draw_detections__crowd_label_is_longer() -> None:
    alone, crowd = (
        draw_detections(grey(), detections(), NAMES, 0.3, truth([50, 80, 90, 99], crowd=crowd))
        for crowd in (False, True)
    )

    assert (crowd != grey()).any(axis=2).sum() > (alone != grey()).any(axis=2).sum() + 100


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (2000, 3000)])
def test_draw_detections__any_size_of_image(size: tuple[int, int]) -> None:
    found = detections(([0, 0, size[1], size[0]], 0.9, 0))

    drawn = draw_detections(grey(*size), found, NAMES, 0.3, truth([0, 0, 0, 0]))
    assert drawn.shape == (*size, 3)
    assert (drawn != 127).any()


def test_class_color__differs_between_neighbors_and_is_vivid() -> None:
    colors = np.array([class_color(label) for label in range(80)])

    assert len({tuple(color) for color in colors.tolist()}) == 80
    assert (np.abs(np.diff(colors, axis=0)).sum(axis=1) > 90).all()
    assert (np.ptp(colors, axis=1) > 120).all()


def test_shortened__keeps_both_ends_within_the_width() -> None:
    letters = font(13)
    text = "a_very_long_file_name_of_a_picture_000001.jpg"
    short = shortened(text, 120, letters)

    assert letters.getlength(short) <= 120
    assert short.startswith("a_very")
    assert short.endswith("01.jpg")
    assert shortened("short", 120, letters) == "short"
