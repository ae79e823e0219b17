"""Graphs that are tuned for ONNX Runtime against the same graphs as they were exported."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilevision.apps.export.deployed import Deployable, DeployedNetwork
from mobilevision.apps.export.folding import for_export
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.inference.metadata import ModelFacts
from mobilevision.backbone import MobileNetV1

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from mobilevision.apps.export.onnx import make_model  # noqa: E402
from mobilevision.apps.export.onnx_tuning import tune  # noqa: E402

SIZE_HW = (32, 48)


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

    def forward(self, pixels: Tensor, picture_hw: Any = None) -> tuple[Tensor, ...]:  # noqa: ARG002
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
def test_tuned__same_answers(
    options: dict[str, Any], parts: int, keepdim: bool, tmp_path: Path
) -> None:
    network = Means(keepdim, **options).eval()
    names = [f"map{stride}" for stride in options["out_strides"]]
    facts = ModelFacts("classification", SIZE_HW, {}, dict.fromkeys(names, "(batch, channels)"))
    deployable = Deployable(DeployedNetwork(for_export(network), SIZE_HW), facts)
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    answers, kinds = [], []
    for change in (None, tune):
        model = make_model(deployable, ExportOptions(any_picture=False), change)
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


def unused(model: Any) -> set[str]:
    """Values that travel along for nothing."""
    used = {name for node in model.graph.node for name in node.input}
    return {value.name for value in model.graph.initializer} - used
