import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.heads.detection.boxes import DefaultBoxes, MultiscaleAnchors

MAPS_300 = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
CPU = torch.device("cpu")


def test_default_boxes__are_1917_at_300_pixels() -> None:
    boxes = DefaultBoxes()((300, 300), MAPS_300, CPU)
    assert boxes.shape == (1917, 4)
    assert boxes.dtype == torch.float32


def test_default_boxes__first_and_last_by_hand() -> None:
    boxes = DefaultBoxes()((300, 300), MAPS_300, CPU)
    centre = 300 * 0.5 / 19
    wide, high = 300 * 0.2 * math.sqrt(2), 300 * 0.2 / math.sqrt(2)
    expected = [
        [centre - 15, centre - 15, centre + 15, centre + 15],  # scale 0.1, ratio 1
        [centre - wide / 2, centre - high / 2, centre + wide / 2, centre + high / 2],
        [centre - high / 2, centre - wide / 2, centre + high / 2, centre + wide / 2],
    ]
    torch.testing.assert_close(boxes[:3], torch.tensor(expected), rtol=1e-5, atol=1e-3)
    last = 300 * math.sqrt(0.95 * 1.0) / 2  # geometric mean of the last scale and 1
    expected_last = torch.tensor([150 - last, 150 - last, 150 + last, 150 + last])
    torch.testing.assert_close(boxes[-1], expected_last, rtol=1e-5, atol=1e-3)
    second = boxes[19 * 19 * 3 :][:6]  # scale 0.35 at five ratios, then between it and 0.5
    sides = second[:, 2:] - second[:, :2]
    ratios = torch.tensor([1.0, 2.0, 1 / 2, 3.0, 1 / 3, 1.0])
    torch.testing.assert_close(sides[:, 0] / sides[:, 1], ratios)
    scales = torch.tensor([0.35] * 5 + [math.sqrt(0.35 * 0.5)])
    torch.testing.assert_close(sides.prod(dim=1).sqrt() / 300, scales)


@pytest.mark.real_data
def test_default_boxes__are_those_of_the_public_detector(real_data: Path) -> None:
    file = np.load(real_data / "weights" / "ssd_mobilenet_v1_0.75_coco_300.npz")
    y, x, height, width = file["anchors"].T
    expected = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    # TensorFlow's configuration writes 1/3 as 0.3333
    ours = DefaultBoxes(aspect_ratios=(1.0, 2.0, 0.5, 3.0, 0.3333))((300, 300), MAPS_300, CPU)
    np.testing.assert_allclose(ours.numpy() / 300, expected, atol=1e-6)


def test_default_boxes__of_equal_maps__are_those_of_the_pooling_pyramid() -> None:
    make = DefaultBoxes(min_scale=0.15, lowest_scale=None)
    assert make.boxes_per_cell == (6,) * 6
    boxes = make((300, 300), MAPS_300, CPU)
    assert boxes.shape == (3000, 4)
    sides = boxes[[0, 5], 2:] - boxes[[0, 5], :2]  # scale 0.15, and between it and 0.31
    expected = torch.tensor([[45.0, 45.0], [300 * math.sqrt(0.15 * 0.31)] * 2])
    torch.testing.assert_close(sides, expected)


def test_default_boxes__follow_the_shape_of_the_image() -> None:
    square = DefaultBoxes()((300, 300), MAPS_300, CPU)
    wide = DefaultBoxes()((300, 600), MAPS_300, CPU)
    torch.testing.assert_close(wide, square * torch.tensor([2.0, 1.0, 2.0, 1.0]))


def test_default_boxes__are_made_once_for_each_size() -> None:
    make = DefaultBoxes()
    assert make((300, 300), MAPS_300, CPU) is make((300, 300), MAPS_300, CPU)
    assert make((300, 300), MAPS_300, CPU) is not make((320, 300), MAPS_300, CPU)


def test_default_boxes__first_made_in_inference_mode_serve_training() -> None:
    make = DefaultBoxes()
    with torch.inference_mode():
        make((300, 300), MAPS_300, CPU)
    assert not make((300, 300), MAPS_300, CPU).is_inference()


def test_default_boxes__for_another_number_of_maps_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        DefaultBoxes(num_maps=6)((300, 300), MAPS_300[:5], CPU)


def test_multiscale_anchors__by_hand() -> None:
    make = MultiscaleAnchors()
    boxes = make((640, 640), [(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)], CPU)
    assert boxes.shape == (51150, 4)
    assert make.boxes_per_cell == (6, 6, 6, 6, 6)
    # the first cell's center is (4, 4); squares of 32 and 45.25 px, then 2 : 1 and 1 : 2
    root = math.sqrt(2)
    ratios = [(16.0, 16.0), (16 * root, 16 / root), (16 / root, 16 * root)]
    halves = [(w * scale, h * scale) for w, h in ratios for scale in (1, math.sqrt(2))]
    expected = torch.tensor([[4 - w, 4 - h, 4 + w, 4 + h] for w, h in halves])
    torch.testing.assert_close(boxes[:6], expected, rtol=1e-5, atol=1e-3)
    # the last cell of the last map: center 576, the largest square 4 sqrt(2) x 128 px
    half = 2 * math.sqrt(2) * 128
    torch.testing.assert_close(
        boxes[-5], torch.tensor([576 - half, 576 - half, 576 + half, 576 + half])
    )


def test_multiscale_anchors__keep_their_pixels_whatever_the_image() -> None:
    make = MultiscaleAnchors(strides=(8, 16), scales_per_octave=3)
    small = make((64, 64), [(8, 8), (4, 4)], CPU)
    wide = make((64, 128), [(8, 16), (4, 8)], CPU)
    torch.testing.assert_close(small[:9], wide[:9])
    sides = (small[:3, 2] - small[:3, 0])[:3]
    torch.testing.assert_close(sides, torch.tensor([32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]))


@pytest.mark.parametrize("make", [DefaultBoxes(num_maps=3), MultiscaleAnchors(strides=(8, 16, 32))])
def test_layout__groups_anchors_of_equal_center(make) -> None:
    maps = [(6, 5), (3, 3), (2, 1)]
    boxes = make((48, 40), maps, CPU)
    start = 0
    for (cells, per_cell), (height, width) in zip(make.layout(maps), maps, strict=True):
        assert cells == height * width
        of_map = boxes[start : start + cells * per_cell].view(cells, per_cell, 4)
        centers = (of_map[..., :2] + of_map[..., 2:]) / 2
        torch.testing.assert_close(centers, centers[:, :1].expand_as(centers))
        assert len(centers[:, 0].round(decimals=2).unique(dim=0)) == cells
        start += cells * per_cell
    assert start == len(boxes)
