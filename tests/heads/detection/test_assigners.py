import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.ops import box_iou

from mobilevision.datasets.types import DetectionTarget, stack_targets
from mobilevision.heads.detection import assigners
from mobilevision.heads.detection.assigners import (
    Assigner,
    ATSSAssigner,
    Matches,
    MaxIoUAssigner,
    SimOTAAssigner,
    class_cost,
    match_anchors,
)
from mobilevision.heads.detection.boxes import (
    BoxCoder,
    DefaultBoxes,
    MapLayout,
    MultiscaleAnchors,
    SSDOutput,
)

CLASSES = 4
SIZE_HW = (160, 200)
MAPS_HW = [(10, 13), (5, 7), (3, 4)]
ASSIGNERS = [MaxIoUAssigner(), ATSSAssigner(), SimOTAAssigner()]


def network_output(seed: int, images: int = 3, noise: float = 1.0) -> SSDOutput:
    """What a network with three maps might say."""
    generator = torch.Generator().manual_seed(seed)
    grid = DefaultBoxes(num_maps=3)
    anchors = grid(SIZE_HW, MAPS_HW, torch.device("cpu"))
    return SSDOutput(
        noise * torch.randn(images, len(anchors), 4, generator=generator),
        noise * torch.randn(images, len(anchors), CLASSES + 1, generator=generator),
        anchors,
        grid.layout(MAPS_HW),
    )


def scattered(seed: int, objects: tuple[int, ...] = (3, 0, 6)) -> DetectionTarget:
    generator = torch.Generator().manual_seed(100 + seed)
    boxes = []
    for count in objects:
        corner = torch.rand(count, 2, generator=generator) * 130
        size = 3 + torch.rand(count, 2, generator=generator) * 60
        boxes.append(torch.cat([corner, corner + size], dim=1))
    return stack_targets(
        boxes,
        [torch.randint(0, CLASSES, (count,), generator=generator) for count in objects],
        [torch.zeros(count, dtype=torch.bool) for count in objects],
    )


def one(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None):
    return stack_targets(
        [torch.tensor(boxes).reshape(-1, 4)],
        [torch.tensor(labels, dtype=torch.int64)],
        [torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool)],
    )


def assert_agrees(ours: Matches, row: int, theirs: list[int]) -> None:
    """Theirs is the object of each anchor, -1 for none."""
    mine = ours.objects[row].masked_fill(~ours.positive[row], -1)
    assert mine.tolist() == theirs


def slow_atss(output: SSDOutput, boxes: Tensor, k: int) -> list[int]:
    """Algorithm 1 of the paper, object by object and anchor by anchor."""
    anchors = output.anchors
    owner, owned_iou = [-1] * len(anchors), [0.0] * len(anchors)
    for number, box in enumerate(boxes):
        iou = box_iou(box[None], anchors)[0].tolist()
        centre = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
        candidates, start = [], 0
        for cells, per_cell in output.layout:
            distances = []
            for cell in range(cells):
                x1, y1, x2, y2 = anchors[start + cell * per_cell].tolist()
                distances.append((math.dist(((x1 + x2) / 2, (y1 + y2) / 2), centre), cell))
            for _, cell in sorted(distances)[:k]:
                candidates += [start + cell * per_cell + index for index in range(per_cell)]
            start += cells * per_cell
        ious = [iou[index] for index in candidates]
        mean = sum(ious) / len(ious)
        threshold = mean + math.sqrt(sum((v - mean) ** 2 for v in ious) / (len(ious) - 1))
        positives = []
        for index in candidates:
            x1, y1, x2, y2 = anchors[index].tolist()
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if iou[index] >= threshold and inside and iou[index] > 0:
                positives.append(index)
        if not positives:
            positives = [max(range(len(iou)), key=iou.__getitem__)]
        for index in positives:
            if iou[index] > owned_iou[index]:
                owner[index], owned_iou[index] = number, iou[index]
    return owner


def slow_simota(
    output: SSDOutput, row: int, boxes: Tensor, labels: Tensor, activation: str
) -> list[int]:
    """Dynamic k, object by object."""
    anchors = output.anchors
    predicted = BoxCoder().decode(output.box_deltas[row], anchors)
    owner, owned_cost = [-1] * len(anchors), [math.inf] * len(anchors)
    for number, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        inside = ((centers > box[:2]) & (centers < box[2:])).all(dim=1)
        candidates = inside.nonzero().flatten().tolist()
        if not candidates:
            candidates = [int(box_iou(box[None], anchors)[0].argmax())]
        iou = box_iou(box[None], predicted)[0]
        costs = []
        for index in candidates:
            logits = output.class_logits[row, index]
            if activation == "softmax":
                cost = F.cross_entropy(logits, label + 1)
            else:
                truth = F.one_hot(label, CLASSES).float()
                cost = F.binary_cross_entropy_with_logits(logits[1:], truth, reduction="sum")
            costs.append((float(cost - 3 * torch.log(iou[index].clamp_min(1e-8))), index))
        best = sorted((float(iou[index]) for index in candidates), reverse=True)[:10]
        for cost, index in sorted(costs)[: max(int(sum(best)), 1)]:
            if cost < owned_cost[index]:
                owner[index], owned_cost[index] = number, cost
    return owner


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 9])
def test_atss__agrees_with_the_algorithm_object_by_object(seed: int, k: int) -> None:
    output, target = network_output(seed), scattered(seed)
    matches = ATSSAssigner(cells_per_map=k)(output, target, BoxCoder())
    for row in range(3):
        boxes = target.boxes[row][target.labels[row] >= 0]
        assert_agrees(matches, row, slow_atss(output, boxes, k))
    assert not matches.ignored.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_simota__agrees_with_the_algorithm_object_by_object(seed: int, activation) -> None:
    output, target = network_output(seed, noise=0.5), scattered(seed)
    matches = SimOTAAssigner()(output, target, BoxCoder(), activation)
    for row in range(3):
        real = target.labels[row] >= 0
        expected = slow_simota(
            output, row, target.boxes[row][real], target.labels[row][real], activation
        )
        assert_agrees(matches, row, expected)


def test_atss__by_hand() -> None:
    # a map of three cells side by side, two boxes a cell: 10 x 10 and 20 x 20
    anchors = torch.tensor(
        [[x - h, 10.0 - h, x + h, 10.0 + h] for x in (10.0, 20.0, 30.0) for h in (5.0, 10.0)]
    )
    output = SSDOutput(
        torch.zeros(1, 6, 4), torch.zeros(1, 6, CLASSES + 1), anchors, (MapLayout(3, 2),)
    )
    # the object's center is (16, 10): the middle cell is nearest, then the left one
    target = one([[6.0, 0.0, 26.0, 20.0]], [0])
    # IoU of the four candidates: 90/410 and 280/520 on the left, 100/400 and 320/480 in the middle;
    # mean 0.4187 and standard deviation 0.2191 make 0.6378, which only 0.6667 reaches
    matches = ATSSAssigner(cells_per_map=2)(output, target, BoxCoder())
    assert_agrees(matches, 0, [-1, -1, -1, 0, -1, -1])
    # between the middle and the right cell: 0 and 100/700, twice 100/400 and 300/500; mean 0.3071
    # and standard deviation 0.2447 make 0.5518
    target = one([[15.0, 0.0, 35.0, 20.0]], [0])
    matches = ATSSAssigner(cells_per_map=3)(output, target, BoxCoder())
    assert_agrees(matches, 0, [-1, -1, -1, 0, -1, 0])
    # all of it: thrice 100/800 and 400/800; 0.3125 and 0.2054 make 0.5179, which none reaches
    target = one([[0.0, 0.0, 40.0, 20.0]], [0])
    matches = ATSSAssigner(cells_per_map=3)(output, target, BoxCoder())
    assert matches.positive.sum() == 1
    assert matches.positive[0, 1::2].any()


def test_simota__by_hand() -> None:
    # three anchors in one object, predicting it exactly, by three quarters and by a tenth
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 15.0], [5.0, 5.0, 9.0, 15.0]])
    logits = torch.zeros(1, 3, CLASSES + 1)
    output = SSDOutput(torch.zeros(1, 3, 4), logits, anchors)
    target = one([[0.0, 0.0, 20.0, 20.0]], [2])
    # k = floor(1 + 0.75 + 0.1) = 1
    assert_agrees(SimOTAAssigner()(output, target, BoxCoder()), 0, [0, -1, -1])
    # cost of the first: ln 5 + 0; of the second: 3 ln(4/3) = 0.863 more. A logit that is 3 higher
    # for the second takes ln(4 + e^3) - 3 = 0.181 instead of ln 5 = 1.609: it is now the cheaper
    logits[0, 1, 3] = 3.0
    assert_agrees(SimOTAAssigner()(output, target, BoxCoder()), 0, [-1, 0, -1])
    # and if overlap weighs more, it is not
    assert_agrees(SimOTAAssigner(iou_weight=6.0)(output, target, BoxCoder()), 0, [0, -1, -1])


def test_simota__takes_as_many_anchors_as_the_overlaps_add_up_to() -> None:
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0]] * 5)
    output = SSDOutput(torch.zeros(1, 5, 4), torch.zeros(1, 5, CLASSES + 1), anchors)
    target = one([[0.0, 0.0, 20.0, 16.0]], [0])  # five times IoU 0.8
    assert SimOTAAssigner()(output, target, BoxCoder()).positive.sum() == 4
    assert SimOTAAssigner(top_overlaps=2)(output, target, BoxCoder()).positive.sum() == 1


def test_max_iou__is_ssds_own_rule() -> None:
    output, target = network_output(0), scattered(0)
    ours = MaxIoUAssigner(0.4, 0.3)(output, target, BoxCoder())
    for a, b in zip(ours, match_anchors(output.anchors, target, 0.4, 0.3), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda a: type(a).__name__)
def test_every_object__has_an_anchor_however_small_or_off_center(assigner: Assigner) -> None:
    boxes = [[1.0, 1.0, 3.0, 3.0], [97.0, 80.0, 99.0, 83.0], [0.0, 0.0, 200.0, 160.0],
             [0.0, 70.0, 200.0, 74.0]]  # fmt: skip
    matches = assigner(network_output(1, images=1, noise=0.1), one(boxes, [0, 1, 2, 3]), BoxCoder())
    assert set(matches.objects[0][matches.positive[0]].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda a: type(a).__name__)
def test_crowd_regions__are_ignored_and_never_positive(assigner: Assigner) -> None:
    output = network_output(2, images=1)
    boxes = [[100.0, 0.0, 200.0, 160.0], [10.0, 10.0, 60.0, 60.0]]
    matches = assigner(output, one(boxes, [0, 1], crowd=[True, False]), BoxCoder())
    alone = assigner(output, one(boxes[1:], [1]), BoxCoder())
    assert torch.equal(matches.positive, alone.positive)
    assert (matches.objects[matches.positive] == 1).all()
    assert matches.ignored.any()
    assert not (matches.ignored & matches.positive).any()
    only = assigner(output, one(boxes[:1], [0], crowd=[True]), BoxCoder())
    assert not only.positive.any()
    assert torch.equal(only.ignored, matches.ignored | (only.ignored & matches.positive))


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda a: type(a).__name__)
def test_no_objects__give_no_positives(assigner: Assigner) -> None:
    output = network_output(3, images=2)
    for target in (scattered(0, (0, 0)), scattered(0, (0, 2))):
        matches = assigner(output, target, BoxCoder())
        assert not matches.positive[0].any()
        assert not matches.ignored.any()


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda a: type(a).__name__)
def test_assigners__leave_no_gradient(assigner: Assigner) -> None:
    output = network_output(0)
    output = output._replace(box_deltas=output.box_deltas.requires_grad_())
    assert not any(part.requires_grad for part in assigner(output, scattered(0), BoxCoder()))


def test_atss__refuses_a_layout_that_does_not_fit() -> None:
    output = network_output(0)._replace(layout=(MapLayout(7, 3),))
    with pytest.raises(ValueError, match="layout"):
        ATSSAssigner()(output, scattered(0), BoxCoder())


@pytest.mark.parametrize("make", [lambda: ATSSAssigner(0), lambda: SimOTAAssigner(0)])
def test_counts__below_one_are_refused(make) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make()


def test_class_cost__by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0), 0.0]]])  # one anchor, two classes
    softmax = class_cost(logits, torch.tensor([[0, 1]]), "softmax")
    assert softmax.flatten().tolist() == pytest.approx([math.log(5 / 3), math.log(5)])
    sigmoid = class_cost(logits, torch.tensor([[0, 1]]), "sigmoid")
    # log(4/3) + log 2 where class 0 is right, log 4 + log 2 where class 1 is
    assert sigmoid.flatten().tolist() == pytest.approx([math.log(8 / 3), math.log(8)])


def test_atss__on_a_pyramid_chooses_the_map_that_fits_the_object() -> None:
    grid, maps_hw = MultiscaleAnchors(strides=(8, 16, 32)), [(32, 32), (16, 16), (8, 8)]
    anchors = grid((256, 256), maps_hw, torch.device("cpu"))
    output = SSDOutput(
        torch.zeros(1, len(anchors), 4), torch.zeros(1, len(anchors), 2), anchors,
        grid.layout(maps_hw),
    )  # fmt: skip
    boxes = [[20.0, 20.0, 56.0, 56.0], [60.0, 90.0, 200.0, 230.0]]
    matches = ATSSAssigner()(output, one(boxes, [0, 0]), BoxCoder())
    for number, (first, last) in enumerate([(0, 32 * 32 * 6), (len(anchors) - 8 * 8 * 6, None)]):
        of_object = matches.positive[0] & (matches.objects[0] == number)
        assert of_object.any()
        assert torch.equal(of_object[first:last].sum(), of_object.sum())


def test_many_pairs__are_matched_image_by_image_to_the_same_objects(monkeypatch) -> None:
    output, target = network_output(0), scattered(0)
    together = match_anchors(output.anchors, target, 0.4, 0.3, 0.1)
    monkeypatch.setattr(assigners, "MOST_PAIRS", 10)
    apart = match_anchors(output.anchors, target, 0.4, 0.3, 0.1)
    assert together.positive.any()
    assert torch.equal(apart.positive, together.positive)
    assert torch.equal(apart.ignored, together.ignored)
    assert torch.equal(apart.objects[together.positive], together.objects[together.positive])
