from pathlib import Path

import pytest
import torch

from mobilevision.heads.detection.weights import load_tensorflow_ssd


@pytest.mark.real_data
def test_load_tensorflow_ssd__tflite_and_npz__give_the_same_detector(real_data: Path) -> None:
    one, other = (
        load_tensorflow_ssd(real_data / "weights" / name, 0.75).state_dict()
        for name in ("detect.tflite", "ssd_mobilenet_v1_0.75_coco_300.npz")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
