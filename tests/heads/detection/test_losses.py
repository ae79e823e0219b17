import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder

from mobilevision.datasets.types import DetectionTarget, stack_targets
from mobilevision.heads.detection.assigners import Matches, match_anchors
from mobilevision.heads.detection.boxes import BoxCoder, SSDOutput
from mobilevision.heads.detection.losses import (
    AnchorLoss,
    FocalLoss,
    MinedCrossEntropy,
    MultiBoxLoss,
    class_losses,
    hardest,
)

CLASSES = 4


def scene(seed: int = 0, anchors: int = 300, objects: tuple[int, ...] = (3, 1, 5)):
    """A network output and a target with the given numbers of objects."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corner = torch.rand(count, 2, generator=generator) * 200
        size = 20 + torch.rand(count, 2, generator=generator) * 80
        return torch.cat([corner, corner + size], dim=1)

    output = SSDOutput(
        torch.randn(len(objects), anchors, 4, generator=generator),
        torch.randn(len(objects), anchors, CLASSES + 1, generator=generator),
        boxes(anchors),
    )
    target = stack_targets(
        [boxes(count) for count in objects],
        [torch.randint(0, CLASSES, (count,), generator=generator) for count in objects],
        [torch.zeros(count, dtype=torch.bool) for count in objects],
    )
    return output, target


def total(loss: AnchorLoss, output: SSDOutput, target: DetectionTarget, **options) -> Tensor:
    return torch.stack(list(loss(output, target, BoxCoder(), **options).values())).sum()


def test_multibox_loss__matches_torchvisions_ssd() -> None:
    output, target = scene()
    matches = match_anchors(output.anchors, target)
    model = SimpleNamespace(
        box_coder=TorchvisionBoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3
    )
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(target.boxes, target.labels, strict=True)
    ]
    theirs = torchvision_ssd.SSD.compute_loss(
        model,  # type: ignore[arg-type]
        targets,
        {"bbox_regression": output.box_deltas, "cls_logits": output.class_logits},
        [output.anchors] * 3,
        list(matches.objects.masked_fill(~matches.positive, -1)),
    )
    ours = MultiBoxLoss(min_negatives=0)(output, target, BoxCoder())
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"])
    torch.testing.assert_close(ours["classification"], theirs["classification"])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_multibox_loss__of_a_batch_is_the_weighted_mean_of_its_images(activation) -> None:
    output, target = scene()
    loss = MultiBoxLoss(min_negatives=0)
    together = total(loss, output, target, score_activation=activation)
    sums, positives = [], []
    for row in range(3):
        one = SSDOutput(
            output.box_deltas[row : row + 1], output.class_logits[row : row + 1], output.anchors
        )
        alone = DetectionTarget(*(field[row : row + 1] for field in target[:3]))
        count = match_anchors(output.anchors, alone).positive.sum()
        positives.append(count)
        sums.append(total(loss, one, alone, score_activation=activation) * count)
    torch.testing.assert_close(together, sum(sums) / sum(positives))


def test_multibox_loss__is_zero_for_a_perfect_network() -> None:
    _, target = scene(objects=(2, 3))
    anchors = target.boxes.flatten(0, 1)[target.labels.flatten() >= 0]
    matches = match_anchors(anchors, target)
    labels = target.labels.gather(1, matches.objects).masked_fill(~matches.positive, -1) + 1
    boxes = target.boxes.gather(1, matches.objects[..., None].expand(-1, -1, 4))
    output = SSDOutput(
        BoxCoder().encode(boxes, anchors), F.one_hot(labels, CLASSES + 1) * 50.0, anchors
    )
    parts = MultiBoxLoss()(output, target, BoxCoder())
    assert parts["box"].item() == pytest.approx(0.0, abs=1e-6)
    assert parts["classification"].item() == pytest.approx(0.0, abs=1e-6)


def test_empty_images__have_no_box_loss_and_learn_background() -> None:
    output, target = scene(objects=(0, 0))
    output = output._replace(
        box_deltas=output.box_deltas.requires_grad_(),
        class_logits=output.class_logits.requires_grad_(),
    )
    parts = MultiBoxLoss(min_negatives=8)(output, target, BoxCoder())
    assert parts["box"].item() == 0.0
    assert parts["classification"].item() > 0.0
    (parts["box"] + parts["classification"]).backward()
    assert output.class_logits.grad is not None
    touched = output.class_logits.grad.abs().sum(dim=-1) > 0
    assert touched.sum(dim=1).tolist() == [8, 8]
    assert (output.class_logits.grad[touched][:, 0] < 0).all(), "background must go up"


def test_crowd_anchors__learn_nothing() -> None:
    anchors = torch.tensor([[0.0, 0.0, 50.0, 50.0], [100.0, 100.0, 150.0, 150.0]])
    target = stack_targets(
        [torch.tensor([[90.0, 90.0, 160.0, 160.0]])], [torch.tensor([1])], [torch.tensor([True])]
    )
    logits = torch.zeros(1, 2, CLASSES + 1, requires_grad=True)
    output = SSDOutput(torch.zeros(1, 2, 4), logits, anchors)
    MultiBoxLoss()(output, target, BoxCoder())["classification"].backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1].abs().sum() == 0


def test_class_losses__by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    softmax = class_losses(logits, torch.tensor([[1]]), "softmax")
    assert softmax.item() == pytest.approx(math.log(4 / 3))
    sigmoid = class_losses(logits, torch.tensor([[1]]), "sigmoid")
    assert sigmoid.item() == pytest.approx(math.log(2) + math.log(4 / 3))


def test_hardest__takes_the_largest_losses_of_the_candidates() -> None:
    losses = torch.tensor([[5.0, 1.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    candidates = torch.tensor([[False, True, True, True], [True, False, False, False]])
    chosen = hardest(losses, candidates, torch.tensor([2, 3]))
    assert chosen.tolist() == [[False, False, True, True], [True, False, False, False]]


def test_loss__in_bfloat16_is_computed_in_float32() -> None:
    output, target = scene()
    half = SSDOutput(output.box_deltas.bfloat16(), output.class_logits.bfloat16(), output.anchors)
    value = total(MultiBoxLoss(), half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, total(MultiBoxLoss(), output, target), rtol=0.02, atol=0.02)


def test_multibox_loss__is_the_default_of_its_parts() -> None:
    output, target = scene()
    theirs = AnchorLoss(classification=MinedCrossEntropy(negatives_per_positive=2.0))(
        output, target, BoxCoder()
    )
    ours = MultiBoxLoss(negatives_per_positive=2.0)(output, target, BoxCoder())
    assert ours == theirs


def roles(classes: Tensor, ignored: list[int]) -> Matches:
    flags = torch.zeros_like(classes, dtype=torch.bool)
    flags[:, ignored] = True
    return Matches(torch.zeros_like(classes), classes > 0, flags)


def test_focal_loss__by_hand() -> None:
    # three anchors, two classes: an object of class 1, background, an ignored one
    classes = torch.tensor([[2, 0, 0]])
    p = torch.tensor([[0.3, 0.2, 0.6], [0.9, 0.1, 0.4], [0.5, 0.9, 0.9]])
    sigmoid = FocalLoss()(torch.logit(p)[None], classes, roles(classes, [2]), "sigmoid")
    expected = (
        -0.75 * 0.2**2 * math.log(0.8) - 0.25 * 0.4**2 * math.log(0.6)
        - 0.75 * 0.1**2 * math.log(0.9) - 0.75 * 0.4**2 * math.log(0.6)
    )  # fmt: skip
    assert sigmoid.item() == pytest.approx(expected, rel=1e-5)

    p = torch.tensor([[0.3, 0.1, 0.6], [0.9, 0.05, 0.05], [0.2, 0.4, 0.4]])
    softmax = FocalLoss(alpha=0.4, gamma=3.0)(
        p.log()[None], classes, roles(classes, [2]), "softmax"
    )
    expected = -0.4 * 0.4**3 * math.log(0.6) - 0.6 * 0.1**3 * math.log(0.9)
    assert softmax.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_focal_loss__is_divided_by_the_positives_of_the_batch(activation) -> None:
    output, target = scene()
    matches = match_anchors(output.anchors, target)
    loss = AnchorLoss(classification=FocalLoss(gamma=0.0, alpha=0.5))
    value = loss(output, target, BoxCoder(), activation)["classification"]
    labels = target.labels.gather(1, matches.objects) + 1
    classes = labels.masked_fill(~matches.positive, 0)
    # without focusing and balance it is half the cross entropy of all anchors
    if activation == "softmax":
        entropy = F.cross_entropy(output.class_logits.mT, classes, reduction="sum")
    else:
        truth = F.one_hot(classes, CLASSES + 1).float()[..., 1:]
        entropy = F.binary_cross_entropy_with_logits(
            output.class_logits[..., 1:], truth, reduction="sum"
        )
    torch.testing.assert_close(value, 0.5 * entropy / matches.positive.sum())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss__keeps_a_finite_gradient_for_certain_anchors(activation, gamma: float) -> None:
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]], requires_grad=True)
    classes = torch.tensor([[0, 0]])
    FocalLoss(gamma=gamma)(logits, classes, roles(classes, []), activation).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"gamma": 0.5}, {"gamma": -1.0}])
def test_focal_loss__refuses_what_is_out_of_range(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FocalLoss(**options)
