"""Parts of ONNX graphs against what they stand for: NMS, the resize, graphs sped up."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mobilevision.apps.export.export_module import Deployable, DeployedNetwork, for_export
from mobilevision.apps.export.exporting import made_up_image
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.export.nms import ExportablePostProcess
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.detection import PostProcess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from mobilevision.apps.export.nms import MULTICLASS_NMS  # noqa: E402
from mobilevision.apps.export.onnx import OPSET, OnnxFormat, make_model, speed_up, translate_nms  # noqa: E402  # noqa: E402

CLASSES, ANCHORS, SIZE_HW = 5, 80, (90, 100)
MAP_HW = (32, 48)


class Suppressed(nn.Module):
    """Boxes and scores to detections."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.process = ExportablePostProcess(PostProcess(**options))

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.process(boxes, scores, SIZE_HW))


def heap(seed: int, spread: float, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes (3, A, 4) around a few places, and scores (3, A, C), no two alike."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 5, (3, ANCHORS, 2), generator=draw) * spread
    corner = corner + torch.rand(3, ANCHORS, 2, generator=draw)
    sides = 25 + torch.rand(3, ANCHORS, 2, generator=draw)
    scores = torch.rand(3, ANCHORS, classes, generator=draw)
    return torch.cat([corner, corner + sides], -1), scores


@pytest.mark.parametrize(
    ("options", "spread", "classes"),
    [
        ({"max_detections": 3}, 15.0, CLASSES),  # the best twelve decide
        ({"max_detections": 3}, 0.0, CLASSES),  # they hide each other: all have to be looked at
        ({"max_detections": 3, "candidates_per_class": 12}, 0.0, CLASSES),
        ({"max_detections": 30, "score_threshold": 0.9}, 15.0, CLASSES),  # fewer than are wanted
        ({"max_detections": 100, "candidates_per_class": 10}, 15.0, CLASSES),
        ({"max_detections": 10, "candidates_per_class": 60}, 15.0, 1),
        ({"max_detections": 10, "candidates_per_class": 20}, 0.0, 1),  # others would be found
        ({"max_detections": 30, "candidates_per_class": 50, "score_threshold": 0.9}, 15.0, 1),
        ({"max_detections": 30, "candidates_per_class": 10}, 15.0, 1),  # more than there may be
    ],
)
def test_nms__onnx__same_detections(
    options: dict[str, Any], spread: float, classes: int, tmp_path: Path
) -> None:
    module = Suppressed(options)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        torch.export.export(
            module, heap(9, spread, classes), dynamic_shapes=({0: batch}, {0: batch})
        ),
        dynamo=True,
        opset_version=OPSET,
        input_names=["boxes", "scores"],
        custom_translation_table={MULTICLASS_NMS: translate_nms},
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "graph.onnx"))
    session = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    for seed, images in ((0, 3), (1, 1)):
        boxes, scores = (each[:images] for each in heap(seed, spread, classes))
        expected = PostProcess(**options)(boxes, scores, SIZE_HW)
        found = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
        assert (expected.scores > 0).any()
        for mine, theirs in zip(found, expected[:3], strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)


class Pixels(nn.Module):
    """Answers with the pixels that a network would see."""

    def forward(self, pixels: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, ...]:  # noqa: ARG002
        return (pixels.float(),)


@pytest.mark.parametrize("noise", [False, True])
def test_resize__onnx__pixels_of_torch_up_to_the_edge(noise: bool, tmp_path: Path) -> None:
    metadata = ModelMetadata(
        "classification", (30, 44), {}, {"pixels": "(batch, 3, 30, 44) float32"}
    )
    deployable = Deployable(DeployedNetwork(Pixels(), metadata.size_hw), metadata)
    OnnxFormat().write(deployable, tmp_path / "resize.onnx", ExportOptions())
    session = ort.InferenceSession(tmp_path / "resize.onnx", providers=["CPUExecutionProvider"])
    for size_hw in ((97, 61), (480, 640), (20, 30), (31, 300), (30, 44)):
        image = made_up_image(size_hw)
        if noise:
            image = np.random.default_rng(1).integers(0, 256, image.shape, dtype=np.uint8)
        images = np.stack([image, image[::-1]])
        (found,) = session.run(None, {"images": images})
        expected = F.interpolate(
            torch.from_numpy(images).permute(0, 3, 1, 2), metadata.size_hw,
            mode="bilinear", antialias=True,
        ).numpy()  # fmt: skip
        apart = np.abs(found - expected)
        assert apart.max() <= (size_hw != metadata.size_hw)
        assert (apart > 0).mean() < 0.1  # halves are rounded either way


class Means(nn.Module):
    """Answers with the average of each map."""

    def __init__(self, keepdim: bool, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MobileNetV1(**options)
        for parameter in self.backbone.parameters():
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
        self.pixel_std, self.keepdim = 127.5, keepdim

    def forward(self, pixels: Tensor, image_hw: Any = None) -> tuple[Tensor, ...]:  # noqa: ARG002
        maps = self.backbone((pixels.float() - 127.5) / self.pixel_std)
        return tuple(each.mean(dim=(2, 3), keepdim=self.keepdim) for each in maps)


@pytest.mark.parametrize(
    ("options", "parts", "keepdim"),
    [
        ({"width_mult": 1.0, "out_strides": (8,)}, 1, True),  # 128 filters before stride 8
        ({"width_mult": 0.75, "out_strides": (8,), "activation": "relu"}, 1, True),  # 96
        ({"width_mult": 0.5, "out_strides": (16,)}, 1, False),  # 128 before stride 16
        ({"width_mult": 0.25, "out_strides": (8,)}, 0, False),  # none has so many
        ({"width_mult": 1.0, "out_strides": (4, 8)}, 0, True),  # the map is needed itself
    ],
)
def test_speed_up__same_answers(
    options: dict[str, Any], parts: int, keepdim: bool, tmp_path: Path
) -> None:
    network = Means(keepdim, **options).eval()
    names = [f"map{stride}" for stride in options["out_strides"]]
    metadata = ModelMetadata(
        "classification", MAP_HW, {}, dict.fromkeys(names, "(batch, channels)")
    )
    deployable = Deployable(DeployedNetwork(for_export(network), MAP_HW), metadata)
    images = np.random.default_rng(0).integers(0, 256, (3, *MAP_HW, 3), dtype=np.uint8)
    answers, kinds = [], []
    for change in (None, speed_up):
        model = make_model(deployable, ExportOptions(any_image=False), change)
        kinds.append(Counter(node.op_type for node in model.graph.node))
        onnx.save(model, tmp_path / "graph.onnx")
        session = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"images": images}))
    plain, tuned = kinds
    assert tuned["Conv"] == plain["Conv"] + 2 * parts
    assert tuned["Concat"] == plain["Concat"] + parts
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    for found, same, torchs in zip(*answers, expected, strict=True):
        assert found.shape == same.shape == torchs.shape
        size = np.abs(found).max()
        assert size > 0
        np.testing.assert_allclose(same, found, rtol=0, atol=1e-5 * size)
        np.testing.assert_allclose(same, torchs.numpy(), rtol=0, atol=1e-4 * size)
    assert not unused(model)
    assert (tuned["GlobalAveragePool"], tuned["ReduceMean"]) == (len(names), 0)


class Merged(nn.Module):
    """Coarse maps of two sizes added to a fine one, and columns with a factor of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.Buffer(torch.tensor([10.0, 5.0, 0.1, 3.0]))

    def forward(self, pixels: Tensor, image_hw: Any = None) -> tuple[Tensor, ...]:  # noqa: ARG002
        fine = pixels.float()
        half, third = fine[..., ::2, ::2] * 3, fine[..., ::7, ::7]
        size_hw = fine.shape[-2:]
        merged = fine + F.interpolate(half, size=size_hw) - F.interpolate(third, size=size_hw)
        return (
            torch.minimum(merged.flatten(2).unflatten(2, (-1, 4)) / self.columns, self.columns),
        )


def test_speed_up__pyramids_and_columns__same_bits(tmp_path: Path) -> None:
    metadata = ModelMetadata("classification", MAP_HW, {}, {"merged": "(batch, 3, 384, 4)"})
    deployable = Deployable(DeployedNetwork(Merged(), MAP_HW).eval(), metadata)
    images = np.random.default_rng(0).integers(0, 256, (2, *MAP_HW, 3), dtype=np.uint8)
    model = make_model(deployable, ExportOptions(any_image=False), speed_up)
    kinds = Counter(node.op_type for node in model.graph.node)
    resized = [node for node in model.graph.node if node.op_type == "Resize"]
    assert sorted(len(node.input) for node in resized) == [3, 4]  # 7 does not divide 32
    assert kinds["Expand"] == 2
    onnx.save(model, tmp_path / "graph.onnx")
    session = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    (expected,) = deployable.module(torch.from_numpy(images))
    np.testing.assert_array_equal(found, expected.numpy())


def unused(model: Any) -> set[str]:
    """Values that travel along for nothing."""
    used = {name for node in model.graph.node for name in node.input}
    return {value.name for value in model.graph.initializer} - used
