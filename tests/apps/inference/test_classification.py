"""The Python API of classification: any image in, the most probable classes out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mobilevision.apps import ClassificationResult, Classifier
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.heads import classification
from mobilevision.heads.checkpoint import Plan, write_checkpoint

NAMES = {4: "red", 7: "green", 9: "blue"}


class Reds:
    """Says which color the pixels have that reach it, and remembers how many images came."""

    def __init__(self, size_hw: tuple[int, int] = (10, 20), **details: float | None) -> None:
        self.metadata = ModelMetadata("classification", size_hw, NAMES, {}, details=details)
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        assert images.shape[1:] == (*self.metadata.size_hw, 3)
        self.batches.append(len(images))
        sums = images.astype(np.float32).mean(axis=(1, 2)) + 1
        return {"probabilities": sums / sums.sum(axis=1, keepdims=True)}


def image(height: int, width: int, edge: int = 0) -> np.ndarray:
    """Green, with a red edge on the left and on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[:, :edge] = pixels[:, width - edge :] = 255, 0, 0
    return pixels


def test_call__single_and_list__classes_by_falling_probability() -> None:
    classify = Classifier(Reds())
    result = classify(image(10, 20, edge=3))
    assert isinstance(result, ClassificationResult)
    assert result.names == ["green", "red", "blue"]
    assert (result.name, result.score) == ("green", result.scores[0])
    assert result.scores.tolist() == sorted(result.probabilities.tolist(), reverse=True)
    assert result.probabilities.sum() == pytest.approx(1)
    assert list(result.to_dict()) == result.names
    assert "green 0." in repr(result)
    many = classify([image(10, 20), image(30, 9, edge=4)], top=2)
    assert isinstance(many, list)
    assert [each.names for each in many] == [["green", "red"], ["red", "green"]]
    assert classify([]) == []


def test_prepare__central_part_of_training__edges_are_cut_off() -> None:
    wide = image(10, 100, edge=40)  # the central 10 x 20 is green
    assert Classifier(Reds())(wide).name == "green"  # type: ignore[union-attr]
    assert Classifier(Reds(crop_fraction=None))(wide).name == "red"  # type: ignore[union-attr]
    narrow = image(10, 20, edge=1)
    whole = Classifier(Reds(crop_fraction=1.0))(narrow)
    part = Classifier(Reds(crop_fraction=0.5))(narrow)
    assert part.score > whole.score  # type: ignore[union-attr]


def test_stream__broken_file__its_error_and_on(tmp_path: Path) -> None:
    from mobilevision.datasets.images import ImageFile

    good, broken = tmp_path / "good.png", tmp_path / "broken.jpg"
    Image.fromarray(image(9, 9)).save(good)
    broken.write_bytes(b"no image")
    runtime = Reds()
    files = map(ImageFile, [broken, good, good, broken])
    kinds = [type(each).__name__ for each in Classifier(runtime).stream(files, batch_size=2)]
    assert kinds == ["DataError", "ClassificationResult", "ClassificationResult", "DataError"]
    assert runtime.batches == [1, 1]
    for options in ({"top": 0}, {"batch_size": 0}):
        with pytest.raises(DataError, match="at least 1"):
            Classifier(runtime)(good, **options)


def test_load__checkpoint__same_as_its_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = Plan(
        classification.Classifier,
        {
            "backbone": Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": (32,)}),
            "num_classes": 3,
        },
    )
    network = plan.build()
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, classification.ClassificationTask, plan, network, NAMES, (64, 96), {})
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    classify = Classifier.load(path, device="cpu")
    assert (classify.size_hw, classify.categories) == ((64, 96), NAMES)
    made = Classifier.from_network(network, NAMES, (64, 96), crop_fraction=None, device="cpu")
    found = made(pixels)
    assert isinstance(found, ClassificationResult)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    expected = nn.functional.softmax(logits, dim=1)[0].numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_load__no_such_file__says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such model.*Public names are mobilenet_v1_1.0_224"):
        Classifier.load(tmp_path / "a.ckpt")


def test_classifier__imported__needs_no_torch() -> None:
    code = (
        "import sys, mobilevision.apps.batch.predictions\n"
        "import mobilevision.apps.inference.classification as a\n"
        "print(a.Classifier.job, {'torch', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "classification set()\n"
