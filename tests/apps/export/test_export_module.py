"""Networks as they are exported against the ones that they are made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilevision.apps.export.export_module import MergedPredictors, for_export, open_deployable
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.classification.model import Classifier
from mobilevision.heads.detection import SSD
from mobilevision.heads.detection.ssd import Predictors
from mobilevision.heads.face_detection.model import LandmarkPredictors


def test_merged_predictors__same_answers_as_two_convolutions() -> None:
    original = Predictors((8, 12), (3, 6), 5)
    for parameter in original.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(2, 8, 4, 5), torch.randn(2, 12, 2, 3)]
    with torch.no_grad():
        apart = original(maps)
        ((deltas, logits),) = MergedPredictors(original)(maps)
    torch.testing.assert_close(deltas, torch.cat([each for each, _ in apart], dim=1))
    torch.testing.assert_close(logits, torch.cat([each for _, each in apart], dim=1))


def test_merged_predictors__with_landmarks__same_answers_as_three() -> None:
    original = LandmarkPredictors((8, 12), (2, 3), 2)
    for parameter in original.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(2, 8, 4, 5), torch.randn(2, 12, 2, 3)]
    with torch.no_grad():
        apart = original(maps)
        (together,) = MergedPredictors(original)(maps)
    assert together[2].shape == (2, 4 * 5 * 2 + 2 * 3 * 3, 5, 2)
    for of_maps, merged in zip(zip(*apart, strict=True), together, strict=True):
        torch.testing.assert_close(merged, torch.cat(of_maps, dim=1))


@pytest.mark.parametrize(
    "network",
    [
        lambda: SSD(MobileNetV1(0.25), num_classes=3),
        lambda: SSD(MobileNetV1(0.25), num_classes=3, pixel_mean=128.0, pixel_std=64.0),
        lambda: Classifier(MobileNetV1(0.25, (32,), activation="relu"), 5),
    ],
)
def test_for_export__pixels_are_divided_in_the_weights(network: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    original = network().eval()
    before = original.pixel_std
    folded = for_export(original)
    assert (folded.pixel_std, original.pixel_std) == (1.0, before)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        mine, theirs = folded(pixels), original(pixels)
    for one, other in zip(tensors(mine), tensors(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def tensors(output: Any) -> list[Tensor]:
    parts = [output] if isinstance(output, Tensor) else output
    return [part for part in parts if isinstance(part, Tensor)]


@pytest.mark.parametrize("key", ["license", "licence"])
def test_open_deployable__license__is_the_checkpoints(
    key: str, small: Callable[[str], Path], tmp_path: Path
) -> None:
    content = torch.load(small("face_embedding"), weights_only=True)
    origin = content["mobilevision"]["provenance"]
    origin[key] = origin.pop("license")
    torch.save(content, tmp_path / "face.ckpt")
    assert open_deployable(tmp_path / "face.ckpt").metadata.license == "MIT"
