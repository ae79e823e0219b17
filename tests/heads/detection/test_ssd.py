import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.types import stack_targets
from mobilevision.heads.detection import SSD, CocoEvaluator, MultiBoxLoss
from mobilevision.heads.detection.weights import load_tensorflow_ssd


def small_ssd(**options) -> SSD:
    torch.manual_seed(0)
    return SSD(MobileNetV1(width_mult=0.25), num_classes=3, **options)


def images(count: int = 2, size: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def test_ssd300__has_the_boxes_parameters_and_cost_of_table_13() -> None:
    model = SSD(MobileNetV1(), num_classes=90).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = model(images(1, 300))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert output.box_deltas.shape == (1, 1917, 4)
    assert output.class_logits.shape == (1, 1917, 91)
    assert round(parameters / 1e6, 2) == 6.82
    assert round(counter.get_total_flops() / 2 / 1e9, 2) == 1.24


def test_output__is_the_same_type_and_shape_in_training_and_evaluation() -> None:
    model = small_ssd()
    trained, evaluated = model.train()(images()), model.eval()(images())
    assert type(trained) is type(evaluated)
    for a, b in zip(trained[:3], evaluated[:3], strict=True):
        assert a.shape == b.shape
    assert trained.layout == evaluated.layout


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients__reach_every_parameter(activation) -> None:
    model = small_ssd(score_activation=activation, loss=MultiBoxLoss(min_negatives=500)).train()
    boxes = torch.tensor(
        [[0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 90.0, 90.0], [0.0, 0.0, 96.0, 96.0],
         [30.0, 30.0, 66.0, 66.0], [10.0, 0.0, 80.0, 60.0], [0.0, 20.0, 90.0, 90.0]]
    )  # fmt: skip
    target = stack_targets(
        [boxes] * 4, [torch.tensor([0, 1, 2, 0, 1, 2])] * 4, [torch.zeros(6, dtype=torch.bool)] * 4
    )
    losses = model.compute_losses(model(images(4)), target)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if ".boxes." not in name:  # a map without a positive anchor has no box gradient
            assert parameter.grad.abs().sum() > 0, name


def test_losses__are_available_in_evaluation_and_without_gradient() -> None:
    model = small_ssd().eval()
    target = stack_targets(
        [torch.tensor([[5.0, 5.0, 40.0, 40.0]])], [torch.tensor([1])], [torch.tensor([False])]
    )
    with torch.inference_mode():
        losses = model.compute_losses(model(images(1)), target)
    assert set(losses) == {"classification", "box"}
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())


def test_detect__returns_boxes_inside_the_image() -> None:
    model = small_ssd().eval()
    model.postprocess.score_threshold = 0.0
    with torch.inference_mode():
        found = model.detect(model(images()), (96, 96))
    assert found.boxes.shape == (2, 100, 4)
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 96
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()


def test_fresh_network__expects_background_nearly_everywhere() -> None:
    for activation in ("softmax", "sigmoid"):
        model = small_ssd(score_activation=activation).train()
        assert model.scores(model(images(8))).mean() < 0.05


def test_input__may_be_rectangular_and_odd() -> None:
    output = small_ssd().eval()(torch.zeros(1, 3, 111, 203, dtype=torch.uint8))
    assert output.box_deltas.shape[1] == len(output.anchors)


def test_backbone__that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        SSD(nn.Conv2d(3, 8, 3), num_classes=3)


def test_num_classes__must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        SSD(MobileNetV1(width_mult=0.25), num_classes=0)


def test_state_dict__has_no_anchors() -> None:
    assert not [name for name in small_ssd().state_dict() if "anchor" in name or "coder" in name]


@pytest.mark.real_data
def test_public_coco_weights__give_the_recorded_coco_numbers(real_data: Path) -> None:
    """The reference detector is the authors' own: an independent float32 pass gave these."""
    recorded = {
        "AP": 0.1958,
        "AP50": 0.3466,
        "AP75": 0.2022,
        "APs": 0.0281,
        "APm": 0.1683,
        "APl": 0.4440,
        "AR1": 0.2020,
        "AR10": 0.3048,
        "AR100": 0.3198,
        "ARs": 0.0559,
        "ARm": 0.2906,
        "ARl": 0.6529,
    }
    model = load_tensorflow_ssd(
        real_data / "weights" / "ssd_mobilenet_v1_0.75_coco_300.npz", width_mult=0.75
    )
    truth = json.loads((real_data / "coco/annotations/instances_val2017.json").read_text())
    names = {number: str(number) for number in range(1, 91)}
    evaluator = CocoEvaluator(truth, names, "COCO subset")
    for image in truth["images"]:
        opened = Image.open(real_data / "coco/val2017" / image["file_name"]).convert("RGB")
        pixels = np.asarray(opened.resize((300, 300), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            output = model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
            found = model.detect(output, (300, 300))
        scale = torch.tensor([image["width"], image["height"]] * 2) / 300
        evaluator.update(torch.tensor([image["id"]]), found._replace(boxes=found.boxes * scale))
    assert evaluator.compute().numbers == pytest.approx(recorded, abs=5e-4)
