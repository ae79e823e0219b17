"""Both stages against torchvision's on copied weights, and cases calculated by hand."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import _utils as peer_utils
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.rpn import RPNHead as PeerHead
from torchvision.ops import MultiScaleRoIAlign

from mobilevision.datasets.types import DetectionTarget
from mobilevision.heads.detection.boxes import BoxCoder, PostProcess
from mobilevision.heads.detection.faster_rcnn_heads import (
    GridAnchors,
    Proposals,
    ProposalSelection,
    RoIHead,
    RoIOutput,
    RPNHead,
    RPNOutput,
)
from mobilevision.heads.detection.faster_rcnn_losses import (
    RoILoss,
    RPNLoss,
    match_proposals,
    sample,
)

SIZE_HW = (160, 240)
UNIT_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


class SameAnchors(nn.Module):
    """torchvision's anchor generator, answering with given anchors."""

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        self.anchors = anchors

    def forward(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        return [self.anchors for _ in images.image_sizes]

    def num_anchors_per_location(self) -> list[int]:
        return [9]


def both_first_stages() -> tuple[RPNHead, RegionProposalNetwork, Tensor, GridAnchors]:
    torch.manual_seed(0)
    anchors = GridAnchors((24.0, 48.0, 96.0))
    ours = RPNHead(16, 16, anchors.boxes_per_cell)
    for layer in (ours.conv, ours.objectness, ours.boxes):
        nn.init.normal_(layer.weight, std=0.15)
        nn.init.normal_(layer.bias, std=0.1)  # type: ignore[arg-type]
    theirs = PeerHead(16, 9)
    theirs.conv[0][0].load_state_dict(ours.conv.state_dict())  # type: ignore[index,union-attr]
    theirs.conv[0][1] = nn.ReLU6()  # type: ignore[index,operator]
    theirs.cls_logits.load_state_dict(ours.objectness.state_dict())
    theirs.bbox_pred.load_state_dict(ours.boxes.state_dict())
    cells_hw = (SIZE_HW[0] // 16, SIZE_HW[1] // 16)
    grid = anchors(cells_hw, 16, torch.device("cpu"))
    peer = RegionProposalNetwork(
        SameAnchors(grid),  # type: ignore[arg-type]
        theirs,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=100_000,  # all of them: no chance in the comparison
        positive_fraction=0.5,
        pre_nms_top_n={"training": 500, "testing": 500},
        post_nms_top_n={"training": 60, "testing": 60},
        nms_thresh=0.7,
    )
    return ours, peer, torch.randn(2, 16, *cells_hw), anchors


def run_ours(head: RPNHead, features: Tensor, anchors: GridAnchors) -> RPNOutput:
    cells_hw = (features.shape[-2], features.shape[-1])
    return RPNOutput(*head(features), anchors(cells_hw, 16, features.device))


def ground_truth() -> tuple[DetectionTarget, list[dict[str, Tensor]]]:
    """Three objects in the first image and one in the second, padded and as torchvision wants.

    No two anchors fit an object equally well: torchvision makes all those positive, we one.
    """
    boxes = torch.tensor(
        [[[11.3, 20.9, 70.1, 82.7], [101.3, 29.7, 199.0, 127.1], [31.4, 92.3, 61.1, 118.8]],
         [[61.2, 10.7, 125.9, 48.4], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    )  # fmt: skip
    labels = torch.tensor([[0, 2, 1], [1, -1, -1]])
    target = DetectionTarget(boxes, labels, torch.zeros(2, 3, dtype=torch.bool))
    rows = [
        {"boxes": of_image[keep >= 0], "labels": keep[keep >= 0] + 1}
        for of_image, keep in zip(boxes, labels, strict=True)
    ]
    return target, rows


def test_proposals__are_torchvisions_on_the_same_weights() -> None:
    ours, peer, features, anchors = both_first_stages()
    images = ImageList(torch.zeros(2, 3, *SIZE_HW), [SIZE_HW, SIZE_HW])
    expected, _ = peer.eval()(images, {"0": features})
    select = ProposalSelection(count=60, candidates=500).eval()
    proposals = select(run_ours(ours, features, anchors), UNIT_CODER, SIZE_HW)
    for boxes, valid, theirs in zip(*proposals, expected, strict=True):
        assert len(theirs) > 20
        assert int(valid.sum()) == len(theirs)
        torch.testing.assert_close(boxes[valid], theirs, rtol=1e-4, atol=1e-3)
        assert valid.tolist() == sorted(valid.tolist(), reverse=True)


def test_first_stage_losses__are_torchvisions_when_every_anchor_is_looked_at() -> None:
    ours, peer, features, anchors = both_first_stages()
    target, rows = ground_truth()
    images = ImageList(torch.zeros(2, 3, *SIZE_HW), [SIZE_HW, SIZE_HW])
    _, expected = peer.train()(images, {"0": features}, rows)
    loss = RPNLoss(samples=100_000).train()
    found = loss(run_ours(ours, features, anchors), target, UNIT_CODER)
    assert expected["loss_rpn_box_reg"] > 0
    torch.testing.assert_close(found["rpn_objectness"], expected["loss_objectness"])
    torch.testing.assert_close(found["rpn_box"], expected["loss_rpn_box_reg"])


def some_proposals(target: DetectionTarget, count: int = 40) -> Proposals:
    """Objects moved a little, and boxes anywhere."""
    generator = torch.Generator().manual_seed(3)
    near = target.boxes[:, :1] + torch.randn(2, count // 2, 4, generator=generator) * 8
    corners = torch.rand(2, count // 2, 2, generator=generator) * 120
    sides = torch.rand(2, count // 2, 2, generator=generator) * 60 + 5
    boxes = torch.cat([near, torch.cat([corners, corners + sides], dim=-1)], dim=1)
    return Proposals(boxes, torch.ones(2, count, dtype=torch.bool))


def test_second_stage_losses__are_torchvisions_on_the_same_boxes() -> None:
    target, rows = ground_truth()
    proposals = some_proposals(target)
    loss = RoILoss(samples=1000)  # all of them: no chance in the comparison
    chosen = loss.choose(proposals, target, BoxCoder())
    torch.manual_seed(1)
    count = chosen.boxes.shape[1]
    output = RoIOutput(torch.randn(2, count, 4), torch.randn(2, count, 3, 4))
    found = loss(output, chosen)

    # Only the methods that choose and encode are used: it needs no networks for them.
    peer = RoIHeads(None, None, None, 0.5, 0.5, 1000, 0.25, None, 0.05, 0.5, 100)
    boxes, _, labels, wanted = peer.select_training_samples(list(proposals.boxes), rows)
    for image, theirs in enumerate(boxes):
        torch.testing.assert_close(chosen.boxes[image][chosen.chosen[image]], theirs)
        assert chosen.classes[image][chosen.chosen[image]].tolist() == labels[image].tolist()
        assert (labels[image] > 0).sum() > 3
    # torchvision has a column of boxes for the background, too.
    with_background = torch.cat([torch.zeros(2, count, 1, 4), output.box_deltas], dim=2)
    classification, box = fastrcnn_loss(
        output.class_logits[chosen.chosen],
        with_background[chosen.chosen].flatten(1),
        labels,
        list(wanted),
    )
    torch.testing.assert_close(found["roi_classification"], classification)
    torch.testing.assert_close(found["roi_box"], box)


def test_objects_themselves__are_among_the_boxes_to_learn_from_but_no_crowd() -> None:
    target, _ = ground_truth()
    target.crowd[0, 1] = True
    nowhere = Proposals(torch.full((2, 5, 4), 1.0), torch.ones(2, 5, dtype=torch.bool))
    chosen = RoILoss(samples=8).choose(nowhere, target, BoxCoder())
    positive = chosen.chosen & (chosen.classes > 0)
    assert chosen.classes[0][positive[0]].tolist() == [1, 2]
    assert chosen.boxes[0][positive[0]].tolist() == target.boxes[0, [0, 2]].tolist()
    assert chosen.boxes[1][positive[1]].tolist() == target.boxes[1, :1].tolist()
    assert (chosen.box_deltas == 0).all()


def test_pooled_maps__are_those_of_torchvisions_pooler() -> None:
    head = RoIHead(8, stride=16, num_classes=2)
    features = torch.randn(2, 8, 10, 15)
    corners = torch.rand(2, 6, 2) * 100
    boxes = torch.cat([corners, corners + 20 + torch.rand(2, 6, 2) * 80], dim=-1)
    pooler = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
    expected = pooler({"0": features}, list(boxes), [SIZE_HW, SIZE_HW])
    # torchvision's detectors leave RoIAlign's half-pixel correction off: shift the boxes by it.
    found = head.pool(features, boxes + 8.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_detections__are_torchvisions_from_the_same_second_stage() -> None:
    target, _ = ground_truth()
    proposals = some_proposals(target)
    torch.manual_seed(2)
    output = RoIOutput(torch.randn(2, 40, 4) * 2, torch.randn(2, 40, 3, 4) * 0.5)
    peer = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 20)
    with_background = torch.cat([torch.zeros(2, 40, 1, 4), output.box_deltas], dim=2)
    expected = peer.postprocess_detections(
        output.class_logits.flatten(0, 1),
        with_background.reshape(80, -1),
        list(proposals.boxes),
        [SIZE_HW, SIZE_HW],
    )
    coder = BoxCoder()
    boxes = coder.decode(output.box_deltas, proposals.boxes[:, :, None])
    scores = output.class_logits.softmax(dim=-1)[..., 1:]
    ours = PostProcess(score_threshold=0.05, iou_threshold=0.5, max_detections=20)
    for found, *theirs in zip(ours(boxes, scores, SIZE_HW).unbatch(), *expected, strict=True):
        assert len(theirs[0]) > 5
        torch.testing.assert_close(found.boxes, theirs[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, theirs[1])
        assert (found.labels + 1).tolist() == theirs[2].tolist()


def test_anchors__lie_on_the_centers_of_the_cells() -> None:
    boxes = GridAnchors((64.0,), (1.0, 4.0))((2, 3), 16, torch.device("cpu"))
    assert boxes.shape == (12, 4)
    assert boxes[0].tolist() == [-24.0, -24.0, 40.0, 40.0]
    assert boxes[1].tolist() == [-56.0, -8.0, 72.0, 24.0]  # four times as wide as high
    assert boxes[2].tolist() == [-8.0, -24.0, 56.0, 40.0]  # the next cell of the row
    assert boxes[6].tolist() == [-24.0, -8.0, 40.0, 56.0]  # the next row


def test_proposals__are_filled_up_with_boxes_that_are_marked() -> None:
    anchors = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.5], [20.0, 20.0, 30.0, 30.0],
         [-9.0, -9.0, -1.0, -1.0]]
    )  # fmt: skip
    rpn = RPNOutput(torch.tensor([[2.0, 3.0, 1.0, 9.0]]), torch.zeros(1, 4, 4), anchors)
    select = ProposalSelection(count=4).eval()
    boxes, valid = select(rpn, UNIT_CODER, (40, 40))
    assert valid.tolist() == [[True, True, False, False]]
    assert boxes[0, :2].tolist() == [[0.0, 0.0, 10.0, 10.5], [20.0, 20.0, 30.0, 30.0]]
    # Behind them: the one outside the image, which is empty, and the one that was suppressed.
    assert boxes[0, 2:].tolist() == [[0.0] * 4, [0.0, 0.0, 10.0, 10.0]]


def test_match_proposals__knows_crowds_fillers_and_too_little_overlap() -> None:
    target = DetectionTarget(
        torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 90.0, 90.0], [0.0, 0.0, 0.0, 0.0]]]),
        torch.tensor([[1, 0, -1]]),
        torch.tensor([[False, True, False]]),
    )
    boxes = torch.tensor(
        [[[0.0, 0.0, 10.0, 6.0],  # IoU 0.6: positive
          [0.0, 0.0, 10.0, 4.0],  # IoU 0.4: background
          [60.0, 60.0, 70.0, 70.0],  # on the crowd: ignored
          [0.0, 0.0, 10.0, 10.0]]]  # perfect, but only fills up
    )  # fmt: skip
    matches = match_proposals(Proposals(boxes, torch.tensor([[True, True, True, False]])), target)
    assert matches.positive.tolist() == [[True, False, False, False]]
    assert matches.ignored.tolist() == [[False, False, True, True]]
    assert matches.objects[0, 0] == 0


def test_anchor_between_the_thresholds__learns_nothing() -> None:
    anchors = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 60.0]]
    )
    target = DetectionTarget(
        anchors[None, :1], torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    )
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = RPNLoss(samples=100)(
        RPNOutput(logits, torch.zeros(1, 3, 4), anchors), target, UNIT_CODER
    )
    assert loss["rpn_objectness"].item() == pytest.approx(0.693147, abs=1e-5)  # ln 2
    loss["rpn_objectness"].backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.25, 0.0, 0.25])  # half of each, of two


@pytest.mark.parametrize("training", [False, True])
def test_sample__keeps_to_the_share_of_positives_and_fills_up(training: bool) -> None:
    positive = torch.zeros(3, 100, dtype=torch.bool)
    positive[0, :50], positive[1, :2] = True, True
    negative = ~positive
    negative[2, 5:] = False  # only five in the last image
    chosen = sample(positive, negative, 20, 0.25, training)
    assert (chosen & positive).sum(dim=1).tolist() == [5, 2, 0]
    assert (chosen & negative).sum(dim=1).tolist() == [15, 18, 5]


def test_sample__differs_while_training_and_else_does_not() -> None:
    negative = torch.ones(1, 1000, dtype=torch.bool)
    torch.manual_seed(0)
    draws = [
        sample(~negative, negative, 50, 0.5, training) for training in (True, True, False, False)
    ]
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[2], draws[3])


def test_peer__encodes_as_our_coder_does() -> None:
    peer = peer_utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes, anchors = some_proposals(ground_truth()[0]).boxes
    torch.testing.assert_close(
        BoxCoder().encode(boxes, anchors), peer.encode_single(boxes, anchors)
    )
