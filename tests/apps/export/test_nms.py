"""NMS of fixed shapes against ``PostProcess`` and ``ProposalSelection``; RoIAlign by sampling."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from mobilevision.apps.export.nms import (
    ExportablePostProcess,
    ExportableProposals,
    multiclass_nms,
    multiclass_nms_dense,
    roi_align,
)
from mobilevision.heads.detection import PostProcess
from mobilevision.heads.detection.boxes import BoxCoder
from mobilevision.heads.detection.faster_rcnn_heads import GridAnchors, ProposalSelection, RPNOutput


def crowd(classes: int, own_boxes: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes in heaps, some of them empty or over the edge, and scores of which most are low."""
    draw = torch.Generator().manual_seed(seed)
    shape = (2, 60, classes) if own_boxes else (2, 60)
    heaps = torch.randint(0, 5, shape, generator=draw)[..., None] * 20.0
    corner = heaps + torch.rand(*shape, 2, generator=draw) * 8 - 4
    sides = 25 + torch.rand(*shape, 2, generator=draw) * 8
    sides[:, 0] = 0
    return torch.cat([corner, corner + sides], -1), torch.rand(2, 60, classes, generator=draw) ** 3


def among_all(found: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """(B, A, G) scores of what was found, 0 for everything else."""
    best, rows, groups = found
    assert torch.equal(best, best.sort(dim=1, descending=True).values)
    nothing = torch.zeros_like(scores.flatten(1))
    return nothing.scatter_add(1, rows * scores.shape[2] + groups, best).view_as(scores)


def test_multiclass_nms__by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6.5], [20, 20, 30, 30]]])
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.8], [0.7, 0.7], [0.6, 0.05]]])
    for suppress in (multiclass_nms, multiclass_nms_dense):
        # IoU 0.8, 0.65 and 0.8125: the second hides the third only where it is there itself.
        found = suppress(boxes, scores, 0.7, 0.06, 10, 8)
        expected = [[[0.9, 0], [0, 0.8], [0.7, 0], [0.6, 0]]]
        torch.testing.assert_close(among_all(found, scores), torch.tensor(expected))
        of_two = among_all(suppress(boxes, scores, 0.7, 0.06, 2, 8), scores)
        torch.testing.assert_close(of_two, torch.tensor([[[0.9, 0], [0, 0.8], [0, 0], [0, 0]]]))
        nothing, *_ = suppress(boxes, scores, 0.7, 0.95, 10, 8)
        assert nothing.shape == (1, 8)
        assert not nothing.any()
        best, rows, groups = suppress(boxes, scores, 0.7, 0.06, 10, 2)
        torch.testing.assert_close(best, torch.tensor([[0.9, 0.8]]))
        assert (rows.tolist(), groups.tolist()) == ([[0, 1]], [[0, 1]])


@pytest.mark.parametrize("candidates", [5, 1000])
def test_multiclass_nms_dense__same_as_the_operator(candidates: int) -> None:
    for seed in range(3):
        boxes, scores = crowd(4, seed=seed)
        limits = (0.6, 0.1, candidates, 240)
        expected = among_all(multiclass_nms(boxes, scores, *limits), scores)
        assert 0 < int((expected > 0).sum()) < int((scores > 0.1).sum())
        found = among_all(multiclass_nms_dense(boxes, scores, *limits), scores)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("own_boxes", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_detections": 7},
        {"score_threshold": 0.3},
        {"candidates_per_class": 5},
        {"score_threshold": 0.999},
        {"max_detections": 1000, "score_threshold": 0.0},
    ],
)
def test_post_process__same_detections(options: dict, own_boxes: bool) -> None:
    original = PostProcess(**options)
    for seed in range(3):
        boxes, scores = crowd(3, own_boxes, seed)
        expected = original(boxes, scores, (90, 100))
        found = ExportablePostProcess(original)(boxes, scores, (90, 100))
        for mine, theirs in zip(found[:3], expected[:3], strict=True):
            torch.testing.assert_close(mine, theirs)


def test_proposals__same_boxes_and_same_order() -> None:
    anchors = GridAnchors((32.0, 64.0))((5, 6), 16, torch.device("cpu"))
    draw = torch.Generator().manual_seed(1)
    rpn = RPNOutput(
        torch.randn(2, len(anchors), generator=draw) * 20,
        torch.randn(2, len(anchors), 4, generator=draw),
        anchors,
    )
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    for count, candidates, least in ((10, 1000, 1e-3), (100, 60, 20.0), (1000, 1000, 1e-3)):
        original = ProposalSelection(count, candidates, min_size=least)
        expected = original(rpn, coder, (80, 96))
        found = ExportableProposals(original)(rpn, coder, (80, 96))
        torch.testing.assert_close(found.boxes, expected.boxes)
        assert torch.equal(found.valid, expected.valid)
        assert expected.valid.any()
        assert count < 1000 or not expected.valid.all()


def test_roi_align__boxes_within_several_images__as_torchvision() -> None:
    torch.manual_seed(0)
    features = torch.rand(2, 3, 7, 9)
    corners = torch.rand(20, 2, 2).sort(dim=1).values * torch.tensor([144.0, 112.0])
    rows = torch.cat([torch.arange(2.0).repeat_interleave(10)[:, None], corners.flatten(1)], dim=1)
    arguments = {"spatial_scale": 1 / 16, "sampling_ratio": 2, "aligned": True}
    expected = torchvision_roi_align(features, rows, (4, 3), **arguments)
    found = roi_align(features, rows, pooled_height=4, pooled_width=3, **arguments)
    torch.testing.assert_close(found, expected)
