from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from mobilevision.apps.callbacks.images import AttributeImages, draw_precision_recall
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.faces.attributes import CelebAModule
from mobilevision.heads.face_attributes import AttributeNetwork, AttributeTask
from mobilevision.heads.face_attributes.metrics import (
    AttributePredictions,
    AttributeResult,
    measure,
)


def a_result(count: int) -> AttributeResult:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, count)) < 0.3).astype(np.int8)
    labels[:, 0] = 0
    scores = (labels * 0.4 + rng.random((60, count)) * 0.6).astype(np.float32)
    errors = np.full(60, np.nan, np.float32)
    given = AttributePredictions(np.arange(60), labels, scores, errors)
    return measure(given, [f"Attribute_{number}" for number in range(count)], "toy")


@pytest.mark.parametrize("count", [1, 3, 40])
def test_draw_precision_recall__a_plot_for_each_attribute(count: int) -> None:
    figure = draw_precision_recall(a_result(count))
    used = [axes for axes in figure.axes if axes.get_title()]
    assert len(used) == count
    assert used[-1].get_title() == "Attribute 0"  # without positives, so last
    assert [text.get_text() for text in used[-1].texts] == ["no positives"]


def test_draw_precision_recall__curve__by_hand() -> None:
    given = AttributePredictions(
        np.arange(3),
        np.array([[1], [0], [1]], np.int8),
        np.array([[0.9], [0.8], [0.4]], np.float32),
        np.full(3, np.nan, np.float32),
    )
    figure = draw_precision_recall(measure(given, ["a"], "toy"))
    chance, line, dot = figure.axes[0].lines
    assert np.allclose(chance.get_ydata(), 2 / 3)
    assert np.allclose(line.get_xdata(), [0, 0.5, 0.5, 1])
    assert np.allclose(line.get_ydata(), [1, 1, 0.5, 2 / 3])
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (0.5, 0.5)


def test_callback__writes_its_image_after_validation(drawn_celeba: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = AttributeNetwork(MobileNetV1(0.25, out_strides=(32,)), 3)
    task = AttributeTask(network, {0: "Red_Face", 1: "Wearing_Hat", 2: "Never"})
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
                      accelerator="cpu", callbacks=[AttributeImages()])  # fmt: skip
    data = CelebAModule(drawn_celeba, size_hw=(40, 32), batch_size=6, num_workers=0)
    trainer.validate(task, data, verbose=False)
    with Image.open(tmp_path / "precision_recall.png") as image:
        assert image.format == "PNG"
