import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mobilevision.heads.detection.boxes import BoxCoder
from mobilevision.heads.detection.losses import BoxLoss, IoUBoxLoss, SmoothL1BoxLoss

LOSSES = [SmoothL1BoxLoss(), IoUBoxLoss("giou"), IoUBoxLoss("ciou")]
YES = torch.ones(1, 1, dtype=torch.bool)


def of_pair(loss: BoxLoss, found: list[float], wanted: list[float]) -> float:
    """The loss of an anchor that predicts itself."""
    anchors, boxes = torch.tensor([found]), torch.tensor([[wanted]])
    return loss(torch.zeros(1, 1, 4), boxes, anchors, YES, BoxCoder()).item()


def test_giou__by_hand() -> None:
    # overlap 5 x 10, union 150, enclosing 15 x 10: nothing is left over
    assert of_pair(IoUBoxLoss("giou"), [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]) == (
        pytest.approx(1 - 1 / 3, abs=1e-5)
    )
    # apart: IoU 0, union 200, enclosing 30 x 10, of which a third is empty
    assert of_pair(IoUBoxLoss("giou"), [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]) == (
        pytest.approx(1 + 1 / 3, abs=1e-5)
    )


def test_ciou__by_hand() -> None:
    # same shape: 1 - IoU + squared distance of the centers / squared diagonal of the enclosing box
    assert of_pair(IoUBoxLoss("ciou"), [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]) == (
        pytest.approx(1 - 1 / 3 + 25 / (15**2 + 10**2), abs=1e-5)
    )
    # same center, 20 x 10 and 10 x 10: IoU 0.5, no distance, aspect ratios 2 and 1
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    assert of_pair(IoUBoxLoss("ciou"), [0.0, 0.0, 20.0, 10.0], [5.0, 0.0, 15.0, 10.0]) == (
        pytest.approx(0.5 + v * v / (0.5 + v), abs=1e-5)
    )


def test_smooth_l1__by_hand() -> None:
    # one anchor width to the right: offset 10 with variance 0.1; |10| - 0.5
    assert of_pair(SmoothL1BoxLoss(), [0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]) == (
        pytest.approx(9.5)
    )
    assert of_pair(SmoothL1BoxLoss(beta=20.0), [0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]) == (
        pytest.approx(10**2 / 40)
    )


@pytest.mark.parametrize("loss", LOSSES, ids=["smooth_l1", "giou", "ciou"])
def test_box_losses__vanish_for_perfect_boxes_and_see_positives_only(loss: BoxLoss) -> None:
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 50.0, 30.0]])
    boxes = torch.tensor([[[2.0, 1.0, 25.0, 30.0], [0.0, 0.0, 0.0, 0.0]]])
    positive = torch.tensor([[True, False]])
    deltas = BoxCoder().encode(boxes, anchors).requires_grad_()
    value = loss(deltas, boxes, anchors, positive, BoxCoder())
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    deltas = torch.zeros(1, 2, 4, requires_grad=True)
    loss(deltas, boxes, anchors, positive, BoxCoder()).backward()
    assert deltas.grad is not None
    assert (deltas.grad[0, 0] != 0).all()
    assert (deltas.grad[0, 1] == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=["smooth_l1", "giou", "ciou"])
def test_box_losses__without_positives_are_zero_with_a_gradient(loss: BoxLoss) -> None:
    deltas = torch.randn(2, 5, 4, requires_grad=True)
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).expand(5, 4)
    none = torch.zeros(2, 5, dtype=torch.bool)
    value = loss(deltas, torch.zeros(2, 5, 4), anchors, none, BoxCoder())
    value.backward()
    assert value.item() == 0.0
    assert deltas.grad is not None


@pytest.mark.parametrize("kind", ["giou", "ciou"])
@pytest.mark.parametrize("size", [-2000.0, 2000.0])
def test_iou_losses__stay_finite_for_vanishing_and_huge_boxes(kind, size: float) -> None:
    deltas = torch.tensor([[[0.0, 0.0, size, size]]], requires_grad=True)
    anchors = torch.tensor([[100.0, 100.0, 120.0, 120.0]])
    value = IoUBoxLoss(kind)(deltas, anchors[None] + 5.0, anchors, YES, BoxCoder())
    value.backward()
    assert torch.isfinite(value)
    assert deltas.grad is not None
    assert torch.isfinite(deltas.grad).all()


def test_smooth_l1__is_torchs_on_the_encoded_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(30, 2, generator=generator) * 100
    anchors = torch.cat([corner, corner + 20], dim=1)
    boxes = anchors + torch.rand(1, 30, 4, generator=generator) * 8
    deltas = torch.randn(1, 30, 4, generator=generator)
    positive = torch.rand(1, 30, generator=generator) < 0.5
    ours = SmoothL1BoxLoss()(deltas, boxes, anchors, positive, BoxCoder())
    wanted = BoxCoder().encode(boxes, anchors)
    theirs = F.smooth_l1_loss(deltas[positive], wanted[positive], reduction="sum")
    torch.testing.assert_close(ours, theirs)


def test_kind__that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="giou or ciou"):
        IoUBoxLoss("diou")  # type: ignore[arg-type]
