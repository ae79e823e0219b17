from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.layers import calibrate_norms
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.backbone.weights.loading import load_weights
from mobilevision.datasets.types import DetectionTarget, stack_targets
from mobilevision.heads.detection.faster_rcnn import FasterRCNN
from mobilevision.heads.detection.faster_rcnn_heads import GridAnchors, ProposalSelection
from mobilevision.heads.detection.faster_rcnn_losses import RoILoss

NAMES = {"rpn_objectness", "rpn_box", "roi_classification", "roi_box"}


def small(width_mult: float = 0.25, num_classes: int = 3, **options) -> FasterRCNN:
    torch.manual_seed(0)
    options.setdefault("anchors", GridAnchors((24.0, 48.0, 96.0)))
    options.setdefault("pooled_size", 4)  # a third of the work of 7
    options.setdefault("roi_loss", RoILoss(samples=24))
    options.setdefault("proposals", ProposalSelection(count=40))
    return FasterRCNN(MobileNetV1(width_mult, out_strides=(16,)), num_classes, **options)


def random_images(count: int = 2, size: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def objects(count: int = 2, num_classes: int = 3, size: float = 96.0) -> DetectionTarget:
    """Boxes of many sizes, so that some proposal of a fresh network lies on one."""
    corners = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.3, 0.2]) * size
    sides = torch.tensor([0.5, 1.0, 0.4, 0.5, 0.5, 0.7]) * size
    boxes = torch.stack(
        [corners, corners.flip(0) / 2, corners + sides, corners.flip(0) / 2 + sides]
    )
    boxes = boxes.T.clamp(max=size)
    labels = torch.arange(len(boxes)) % num_classes
    return stack_targets(
        [boxes] * count, [labels] * count, [torch.zeros(len(boxes), dtype=torch.bool)] * count
    )


def nothing(count: int = 2) -> DetectionTarget:
    return stack_targets(
        [torch.zeros(0, 4)] * count,
        [torch.zeros(0, dtype=torch.int64)] * count,
        [torch.zeros(0, dtype=torch.bool)] * count,
    )


def test_faster_rcnn__has_the_parameters_and_cost_of_table_13() -> None:
    model = FasterRCNN(MobileNetV1(out_strides=(16,)), num_classes=90).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(6.07, rel=0.01)
    parts = {}
    for size, published in ((300, 25.22), (600, 30.49)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = model(random_images(1, size))
        assert output.proposals.boxes.shape == (1, 300, 4)
        assert output.roi.class_logits.shape == (1, 300, 91)
        assert output.roi.box_deltas.shape == (1, 300, 90, 4)
        assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.01)
        parts[size] = [
            round(sum(counter.flop_counts[f"FasterRCNN.{part}"].values()) / 2e9, 2)
            for part in ("backbone", "rpn", "roi")
        ]
    assert parts == {300: [0.90, 0.86, 23.46], 600: [3.57, 3.45, 23.46]}  # as the module says


def test_output__is_the_same_type_in_training_and_evaluation() -> None:
    model = small()
    trained, evaluated = model.train()(random_images()), model.eval()(random_images())
    assert type(trained) is type(evaluated)
    assert [type(part) for part in trained] == [type(part) for part in evaluated]
    for output in (trained, evaluated):
        assert output.proposals.boxes.shape == (2, 40, 4)
        assert not output.proposals.boxes.requires_grad
    assert trained.roi.class_logits.shape == (2, 0, 4)
    assert trained.roi.box_deltas.shape == (2, 0, 3, 4)
    assert evaluated.roi.class_logits.shape == (2, 40, 4)
    assert evaluated.roi.box_deltas.shape == (2, 40, 3, 4)


def test_gradients__reach_every_parameter() -> None:
    model = small().train()
    losses = model.compute_losses(model(random_images(4)), objects(4))
    assert set(losses) == NAMES
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_losses__are_repeatable_in_evaluation_and_leave_the_generator_alone() -> None:
    model = small().eval()
    with torch.inference_mode():
        output = model(random_images())
        state = torch.get_rng_state()
        first = model.compute_losses(output, objects())
        again = model.compute_losses(output, objects())
    assert set(first) == NAMES
    assert all(torch.isfinite(value) and value > 0 for value in first.values())
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)


def test_image_without_objects__teaches_background_only() -> None:
    model = small().train()
    losses = model.compute_losses(model(random_images()), nothing())
    assert losses["rpn_box"] == 0
    assert losses["roi_box"] == 0
    assert losses["rpn_objectness"] > 0
    assert losses["roi_classification"] > 0
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_image_that_is_one_crowd__teaches_little_and_finitely() -> None:
    model = small().train()
    target = DetectionTarget(
        torch.tensor([[[-200.0, -200.0, 400.0, 400.0]]] * 2),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.ones(2, 1, dtype=torch.bool),
    )
    losses = model.compute_losses(model(random_images()), target)
    assert all(value == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_detect__takes_each_class_own_box_and_no_filler() -> None:
    model = small(num_classes=2)
    model.postprocess.score_threshold = 0.3
    output = model.eval()(random_images(1))
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [40.0, 40.0, 80.0, 80.0]]])
    logits = torch.full((1, 2, 3), -20.0)
    logits[0, 0, 2] = 20.0  # the first proposal shows class 1
    logits[0, 1, 1] = 20.0  # the second would show class 0, but it only fills up
    deltas = torch.zeros(1, 2, 2, 4)
    deltas[0, 0, 0] = 5.0  # the box of the other class
    deltas[0, 0, 1, 0] = 1.0  # a tenth of the width to the right
    output = output._replace(
        proposals=output.proposals._replace(boxes=boxes, valid=torch.tensor([[True, False]])),
        roi=output.roi._replace(class_logits=logits, box_deltas=deltas),
    )
    (found,) = model.detect(output, (96, 96)).unbatch()
    assert found.labels.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([1.0])
    assert found.boxes[0].tolist() == pytest.approx([12.0, 10.0, 32.0, 50.0])


def test_detect__also_takes_an_output_of_training() -> None:
    model = small(freeze_norms=True)
    model.postprocess.score_threshold = 0.0
    images = random_images(1)
    with torch.inference_mode():
        trained, evaluated = model.train()(images), model.eval()(images)
        assert (model.detect(trained, (96, 96)).labels >= 0).any()
        for found, expected in zip(
            model.detect(trained, (96, 96)), model.detect(evaluated, (96, 96)), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_detect__returns_boxes_inside_the_image() -> None:
    model = small().eval()
    model.postprocess.score_threshold = 0.0
    with torch.inference_mode():
        found = model.detect(model(random_images()), (96, 96))
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 96
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert (found.labels >= 0).any()


def test_batch__gives_what_its_images_give_alone() -> None:
    model = small().eval()
    images = random_images(3)
    with torch.inference_mode():
        together = model(images)
        for row, image in enumerate(images):
            alone = model(image[None])
            torch.testing.assert_close(
                together.proposals.boxes[row], alone.proposals.boxes[0], rtol=1e-4, atol=1e-3
            )
            torch.testing.assert_close(
                together.roi.class_logits[row], alone.roi.class_logits[0], rtol=1e-4, atol=1e-4
            )


def test_input__may_be_rectangular_odd_and_tiny() -> None:
    model = small().eval()
    for height, width in ((111, 203), (16, 90), (1, 1)):
        with torch.inference_mode():
            output = model(torch.zeros(1, 3, height, width, dtype=torch.uint8))
            found = model.detect(output, (height, width))
        assert output.rpn.objectness.shape[1] == len(output.rpn.anchors)
        assert (output.proposals.boxes <= torch.tensor([width, height, width, height])).all()
        assert torch.isfinite(found.scores).all()


def test_one_batch__is_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = small(num_classes=2).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3  # so few steps have to settle the running statistics
    images = torch.full((2, 3, 128, 128), 90, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 24.0, 70.0, 80.0], [64.0, 48.0, 120.0, 112.0]])
    images[0, 0, 24:80, 20:70] = 255
    images[1, 2, 48:112, 64:120] = 255
    target = stack_targets(
        [boxes[:1], boxes[1:]],
        [torch.tensor([0]), torch.tensor([1])],
        [torch.tensor([False])] * 2,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(80):
        losses = model.compute_losses(model(images), target)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.2 * totals[0]
    found = model.eval().detect(model(images), (128, 128))
    assert found.labels[:, 0].tolist() == [0, 1]
    assert (found.scores[:, 0] > 0.8).all()
    assert (found.boxes[:, 0] - boxes).abs().max() < 8


def test_frozen_norms__stay_as_they_are_whoever_calls_train() -> None:
    model = small(freeze_norms=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len([m for m in small().modules() if isinstance(m, nn.BatchNorm2d)])
    before = {name: value.clone() for name, value in model.state_dict().items() if "norm" in name}
    model.train()
    model.backbone.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model.compute_losses(model(random_images(1)), objects(1))
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert set(after) == set(small().state_dict())


def test_pretrained_body__shares_its_last_blocks_with_the_second_stage() -> None:
    model = FasterRCNN(MobileNetV1(out_strides=(16,)), num_classes=1)
    body = model.pretrained_body()
    assert isinstance(body, MobileNetV1)
    assert len(body.blocks) == 13
    assert body.blocks[0] is model.backbone.blocks[0]  # type: ignore[union-attr,index]
    assert body.blocks[11] is model.roi.blocks[0]
    assert body.blocks[12] is model.roi.blocks[1]
    assert not any(parameter.is_meta for parameter in body.parameters())
    assert not any(buffer.is_meta for buffer in body.buffers())
    (features,) = body(torch.zeros(1, 3, 64, 64))
    assert features.shape[1] == 1024


def test_pretrained_body__is_the_backbone_where_the_widths_differ() -> None:
    model = small()
    assert model.pretrained_body() is model.backbone


@pytest.mark.real_data
def test_imagenet_weights__fill_both_stages_and_calibration_keeps_them(real_data: Path) -> None:
    model = FasterRCNN(MobileNetV1(out_strides=(16,)), num_classes=1).eval()
    whole = MobileNetV1(out_strides=(32,))
    path = real_data / "weights" / "mobilenet_v1_1.0_224.npz"
    assert load_weights(model.pretrained_body(), path).folded  # type: ignore[arg-type]
    load_weights(whole, path)
    scopes = slim_layers(whole)
    pairs = {11: model.roi.blocks[0], 12: model.roi.blocks[1]}
    for index, block in pairs.items():
        for part in ("depthwise", "pointwise"):
            layer = scopes[f"MobilenetV1/Conv2d_{index + 1}_{part}"]
            assert torch.equal(layer.conv.weight, getattr(block, part).conv.weight)
    images = random_images(2, 128)
    boxes = torch.tensor([[[10.0, 10.0, 60.0, 90.0]], [[0.0, 0.0, 128.0, 128.0]]])
    with torch.inference_mode():
        (features,) = model.backbone(images / 127.5 - 1)
        before = model.roi(features, boxes).class_logits
    calibrate_norms(model.pretrained_body(), [images / 127.5 - 1])
    with torch.inference_mode():
        (features,) = model.backbone(images / 127.5 - 1)
        after = model.roi(features, boxes).class_logits
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_backbone__with_two_maps_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"out_strides: \[16\]"):
        FasterRCNN(MobileNetV1(width_mult=0.25), num_classes=3)


def test_backbone__that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        FasterRCNN(nn.Conv2d(3, 8, 3), num_classes=3)


def test_num_classes__must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        small(num_classes=0)
