import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder

from mobilevision.heads.detection.boxes import (
    BoxCoder,
    area,
    clip_boxes,
    paired_iou,
    pairwise_intersection,
    pairwise_iou,
)


def random_boxes(*shape: int, seed: int = 0, size: float = 300.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator) * size
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


def test_pairwise_iou__matches_torchvision_image_by_image() -> None:
    a, b = random_boxes(3, 7, seed=1), random_boxes(3, 11, seed=2)
    ours = pairwise_iou(a, b)
    for image in range(3):
        torch.testing.assert_close(ours[image], torchvision.ops.box_iou(a[image], b[image]))


def test_paired_iou__is_the_diagonal_of_all_pairs() -> None:
    a, b = random_boxes(3, 9, seed=1), random_boxes(3, 9, seed=2)
    assert torch.equal(paired_iou(a, b), pairwise_iou(a, b).diagonal(dim1=-2, dim2=-1))


def test_pairwise_intersection__by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    b = torch.tensor([[5.0, 5.0, 20.0, 8.0], [10.0, 0.0, 20.0, 10.0], [2.0, 2.0, 4.0, 4.0]])
    assert pairwise_intersection(a, b).tolist() == [[15.0, 0.0, 4.0]]
    assert pairwise_iou(a, b)[0].tolist() == pytest.approx([15 / 130, 0.0, 0.04])


def test_iou__with_an_empty_box_is_zero() -> None:
    empty = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert pairwise_iou(empty, empty).item() == 0.0
    assert area(torch.tensor([[5.0, 5.0, 1.0, 9.0]])).item() == 0.0


def test_box_coder__matches_torchvision() -> None:
    boxes, anchors = random_boxes(50, seed=3), random_boxes(50, seed=4)
    theirs = TorchvisionBoxCoder((10.0, 10.0, 5.0, 5.0))
    ours = BoxCoder()
    encoded = ours.encode(boxes, anchors)
    torch.testing.assert_close(encoded, theirs.encode_single(boxes, anchors), rtol=1e-4, atol=1e-4)
    deltas = torch.randn(50, 4)
    torch.testing.assert_close(
        ours.decode(deltas, anchors), theirs.decode_single(deltas, anchors), rtol=1e-4, atol=1e-3
    )


def test_box_coder__by_hand() -> None:
    anchor = torch.tensor([10.0, 10.0, 30.0, 50.0])  # center 20, 30; size 20, 40
    box = torch.tensor([20.0, 20.0, 40.0, 60.0])  # center 30, 40; size 20, 40
    assert BoxCoder().encode(box, anchor).tolist() == pytest.approx([5.0, 2.5, 0.0, 0.0])
    twice = BoxCoder().decode(torch.tensor([0.0, 0.0, 5 * math.log(2), 0.0]), anchor)
    assert twice.tolist() == pytest.approx([0.0, 10.0, 40.0, 50.0], abs=1e-4)


coordinates = st.floats(0, 500, width=32)
sides = st.floats(1, 400, width=32)


@given(coordinates, coordinates, sides, sides, coordinates, coordinates, sides, sides)
def test_box_coder__decodes_what_it_encoded(x, y, w, h, ax, ay, aw, ah) -> None:
    box, anchor = torch.tensor([x, y, x + w, y + h]), torch.tensor([ax, ay, ax + aw, ay + ah])
    if max(w / aw, h / ah) > 60:  # beyond the cut of exp()
        return
    coder = BoxCoder()
    torch.testing.assert_close(
        coder.decode(coder.encode(box, anchor), anchor), box, rtol=1e-3, atol=0.05
    )


def test_box_coder__cuts_exploding_sizes() -> None:
    decoded = BoxCoder().decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    assert torch.isfinite(decoded).all()
    assert (decoded[0, 2] - decoded[0, 0]).item() == pytest.approx(625.0)


def test_clip_boxes__cuts_at_height_and_width() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 500.0, 500.0]])
    assert clip_boxes(boxes, (100, 200)).tolist() == [[0.0, 0.0, 200.0, 100.0]]
