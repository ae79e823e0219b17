"""Parts of ONNX graphs against what they stand for: suppression and the resize."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mobilevision.apps.export.deployed import Deployable, DeployedNetwork
from mobilevision.apps.export.exporting import made_up_picture
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.export.suppression import ExportablePostProcess
from mobilevision.apps.inference.metadata import ModelFacts
from mobilevision.heads.detection import PostProcess

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from mobilevision.apps.export.onnx import FORMAT, OPSET  # noqa: E402
from mobilevision.apps.export.onnx_suppression import translate_suppression  # noqa: E402
from mobilevision.apps.export.suppression import SUPPRESSION  # noqa: E402

CLASSES, ANCHORS, SIZE_HW = 5, 80, (90, 100)


class Suppressed(nn.Module):
    """Boxes and scores to detections."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.process = ExportablePostProcess(PostProcess(**options))

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.process(boxes, scores, SIZE_HW))


def heap(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Boxes (3, A, 4) around a few places, and scores (3, A, C), no two alike."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 5, (3, ANCHORS, 2), generator=draw) * spread
    corner = corner + torch.rand(3, ANCHORS, 2, generator=draw)
    sides = 25 + torch.rand(3, ANCHORS, 2, generator=draw)
    scores = torch.rand(3, ANCHORS, CLASSES, generator=draw)
    return torch.cat([corner, corner + sides], -1), scores


@pytest.mark.parametrize(
    ("options", "spread"),
    [
        ({"max_detections": 3}, 15.0),  # the best twelve decide
        ({"max_detections": 3}, 0.0),  # they hide each other: all have to be looked at
        ({"max_detections": 3, "candidates_per_class": 12}, 0.0),
        ({"max_detections": 30, "score_threshold": 0.9}, 15.0),  # fewer than are wanted
        ({"max_detections": 100, "candidates_per_class": 10}, 15.0),
    ],
)
def test_suppression__onnx__same_detections(
    options: dict[str, Any], spread: float, tmp_path: Path
) -> None:
    module = Suppressed(options)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        torch.export.export(module, heap(9, spread), dynamic_shapes=({0: batch}, {0: batch})),
        dynamo=True,
        opset_version=OPSET,
        input_names=["boxes", "scores"],
        custom_translation_table={SUPPRESSION: translate_suppression},
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "graph.onnx"))
    session = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    for seed, images in ((0, 3), (1, 1)):
        boxes, scores = (each[:images] for each in heap(seed, spread))
        expected = PostProcess(**options)(boxes, scores, SIZE_HW)
        found = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
        assert (expected.scores > 0).any()
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)


class Pixels(nn.Module):
    """Answers with the pixels that a network would see."""

    def forward(self, pixels: Tensor, picture_hw: tuple[int, int]) -> tuple[Tensor, ...]:  # noqa: ARG002
        return (pixels.float(),)


@pytest.mark.parametrize("noise", [False, True])
def test_resize__onnx__pixels_of_torch_up_to_the_edge(noise: bool, tmp_path: Path) -> None:
    facts = ModelFacts("classification", (30, 44), {}, {"pixels": "(batch, 3, 30, 44) float32"})
    deployable = Deployable(DeployedNetwork(Pixels(), facts.size_hw), facts)
    FORMAT.write(deployable, tmp_path / "resize.onnx", ExportOptions())
    session = ort.InferenceSession(tmp_path / "resize.onnx", providers=["CPUExecutionProvider"])
    for size_hw in ((97, 61), (480, 640), (20, 30), (31, 300), (30, 44)):
        picture = made_up_picture(size_hw)
        if noise:
            picture = np.random.default_rng(1).integers(0, 256, picture.shape, dtype=np.uint8)
        images = np.stack([picture, picture[::-1]])
        (found,) = session.run(None, {"images": images})
        expected = F.interpolate(
            torch.from_numpy(images).permute(0, 3, 1, 2), facts.size_hw,
            mode="bilinear", antialias=True,
        ).numpy()  # fmt: skip
        apart = np.abs(found - expected)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.1  # halves are rounded either way
