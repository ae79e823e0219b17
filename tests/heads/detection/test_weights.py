"""TensorFlow's public detector in our SSD."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.backbone.errors import WeightsError
from mobilevision.heads.detection.weights import (
    is_detector,
    load_tensorflow_ssd,
    open_detector,
    read_detector,
)

NPZ = "ssd_mobilenet_v1_0.75_coco_300.npz"


@pytest.mark.real_data
def test_load_tensorflow_ssd__tflite_and_npz__give_the_same_detector(real_data: Path) -> None:
    one, other = (
        load_tensorflow_ssd(real_data / "weights" / name, 0.75).state_dict()
        for name in ("detect.tflite", NPZ)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.real_data
def test_tensorflow_ssd__some_columns__have_the_logits_of_all(real_data: Path) -> None:
    images = torch.randint(256, (1, 3, 300, 300), dtype=torch.uint8)
    columns = [1, 17, 18, 90]
    source = open_detector(real_data / "weights" / NPZ)
    some = source.plan(len(columns)).build().eval()
    source.fill(some, columns)
    whole = load_tensorflow_ssd(real_data / "weights" / NPZ, 0.75)
    with torch.inference_mode():
        ours, theirs = some(images), whole(images)
    torch.testing.assert_close(ours.box_deltas, theirs.box_deltas)
    torch.testing.assert_close(ours.class_logits, theirs.class_logits[..., [0, *columns]])


def changed(real_data: Path, folder: Path, **changes: np.ndarray | None) -> Path:
    """The real detector's file with arrays changed, or left out where None."""
    with np.load(real_data / "weights" / NPZ) as file:
        arrays = {name: file[name] for name in file.files} | changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(folder / "w.npz", **kept)  # type: ignore[arg-type]
    return folder / "w.npz"


@pytest.mark.real_data
def test_tensorflow_ssd__other_anchors__refused(real_data: Path, tmp_path: Path) -> None:
    with np.load(real_data / "weights" / NPZ) as file:
        anchors = file["anchors"].copy()
    anchors[500, 2] *= 1.01
    path = changed(real_data, tmp_path, anchors=anchors)
    with pytest.raises(WeightsError, match="its 1917 anchors are not the 1917 default boxes"):
        load_tensorflow_ssd(path, 0.75)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("BoxPredictor_3/BoxEncodingPredictor/bias", None, "is missing"),
        ("BoxPredictor_3/ClassPredictor/bias", np.zeros(7, np.float32), r"has shape \(7,\)"),
        ("BoxPredictor_6/ClassPredictor/bias", np.zeros(7, np.float32), "1 tensors have no place"),
        ("FeatureExtractor/MobilenetV1/Conv2d_9_pointwise/bias", None, "is missing"),
    ],
)
def test_tensorflow_ssd__what_does_not_fit__is_named(
    real_data: Path, tmp_path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=f"{name}.*{message}|{message}.*{name}"):
        load_tensorflow_ssd(changed(real_data, tmp_path, **{name: array}), 0.75)


@pytest.mark.real_data
def test_load_tensorflow_ssd__other_width__says_which(real_data: Path) -> None:
    with pytest.raises(WeightsError, match=r"its width_mult is 0\.75, not 1"):
        load_tensorflow_ssd(real_data / "weights" / NPZ, 1.0)


@pytest.mark.real_data
def test_tensorflow_ssd__classifier__says_so(real_data: Path) -> None:
    with pytest.raises(WeightsError, match="a classifier, and no SSD"):
        open_detector(real_data / "weights" / "mobilenet_v1_0.25_128.npz")


@pytest.mark.real_data
def test_read_detector__public_file__has_its_plan_and_its_classes(real_data: Path) -> None:
    path = real_data / "weights" / NPZ
    assert is_detector(path)
    assert not is_detector(real_data / "weights" / "mobilenet_v1_0.25_128.npz")
    found = read_detector(path, (320, 256))
    assert (found.size_hw, len(found.categories), found.categories[90]) == (
        ((320, 256), 80, "toothbrush")
    )
    assert found.metadata["notes"] == ["10 unused columns of the class predictors are left out."]
    again = found.plan.build()
    again.load_state_dict(found.network.state_dict())
    images = torch.randint(256, (1, 3, 300, 300), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = again.eval()(images), found.network(images)
    assert torch.equal(ours.class_logits, theirs.class_logits)
