import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.heads.detection.anchors import DefaultBoxes

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


@pytest.mark.real_data
def test_default_boxes__are_those_of_the_public_detector(real_data: Path) -> None:
    file = np.load(real_data / "weights" / "ssd_mobilenet_v1_0.75_coco_300.npz")
    y, x, height, width = file["anchors"].T
    expected = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    # TensorFlow's configuration writes 1/3 as 0.3333
    ours = DefaultBoxes(aspect_ratios=(1.0, 2.0, 0.5, 3.0, 0.3333))((300, 300), MAPS_300, CPU)
    np.testing.assert_allclose(ours.numpy() / 300, expected, atol=1e-6)


def test_default_boxes__follow_the_shape_of_the_picture() -> None:
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
