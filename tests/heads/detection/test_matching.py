import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from mobilevision.datasets.types import DetectionTarget, stack_targets
from mobilevision.heads.detection.assigners import match_anchors

ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 60.0, 60.0]])


def target(boxes: list[list[float]], crowd: list[bool] | None = None) -> DetectionTarget:
    count = len(boxes)
    return stack_targets(
        [torch.tensor(boxes).reshape(-1, 4)],
        [torch.arange(count)],
        [torch.tensor(crowd or [False] * count, dtype=torch.bool)],
    )


def test_match__above_the_threshold_is_positive() -> None:
    matches = match_anchors(ANCHORS, target([[0.0, 0.0, 10.0, 9.0]]))
    assert matches.positive.tolist() == [[True, False, False]]
    assert matches.objects[0, 0] == 0


def test_match__exactly_at_the_thresholds__positive_and_ignored() -> None:
    """Anchor 0 has half of the object and half on the crowd region, and anchor 1 all of it."""
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [40.0, 0.0, 50.0, 8.0]])
    boxes = [[0.0, 0.0, 10.0, 20.0], [40.0, 0.0, 45.0, 8.0]]
    matches = match_anchors(anchors, target(boxes, crowd=[False, True]))
    assert matches.positive.tolist() == [[True, True, False]]
    assert matches.ignored.tolist() == [[False, False, True]]
    above = match_anchors(anchors, target(boxes, crowd=[False, True]), 0.51, 0.51)
    assert above.positive.tolist() == [[False, True, False]]
    assert not above.ignored.any()
    assert match_anchors(anchors, target([[40.0, 0.0, 44.9, 8.0]], crowd=[True])).ignored.sum() == 0


def test_match__every_object_gets_its_best_anchor_below_the_threshold() -> None:
    matches = match_anchors(ANCHORS, target([[0.0, 0.0, 10.0, 9.0], [55.0, 55.0, 80.0, 80.0]]))
    assert matches.positive.tolist() == [[True, False, True]]
    assert matches.objects[0].tolist()[2] == 1


def test_match__the_better_of_two_objects_takes_a_contested_anchor() -> None:
    # both want anchor 2: the first with IoU 0.25, the second with 0.49
    boxes = [[50.0, 50.0, 55.0, 55.0], [50.0, 50.0, 57.0, 57.0]]
    matches = match_anchors(ANCHORS, target(boxes))
    assert matches.positive.tolist() == [[False, False, True]]
    assert matches.objects[0, 2] == 1


def test_match__a_forced_anchor_leaves_the_object_it_overlaps_more() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    # the first object is best served by anchor 0, the small second one only touches anchor 0
    boxes = [[0.0, 0.0, 10.0, 9.0], [9.0, 9.0, 12.0, 12.0]]
    matches = match_anchors(anchors, target(boxes))
    assert matches.objects[0].tolist() == [1, 0]
    assert matches.positive.all()


def test_match__an_object_that_no_anchor_touches_gets_none() -> None:
    matches = match_anchors(ANCHORS, target([[200.0, 200.0, 210.0, 210.0]]))
    assert not matches.positive.any()


def test_match__without_objects_everything_is_background() -> None:
    empty = match_anchors(ANCHORS, target([]))
    assert not empty.positive.any()
    assert not empty.ignored.any()


def test_match__crowd_regions_are_ignored_and_never_positive() -> None:
    matches = match_anchors(
        ANCHORS, target([[45.0, 45.0, 70.0, 70.0], [0.0, 0.0, 10.0, 10.0]], crowd=[True, False])
    )
    assert matches.ignored.tolist() == [[False, False, True]]
    assert matches.positive.tolist() == [[True, False, False]]


def test_match__a_positive_anchor_on_a_crowd_region_stays_positive() -> None:
    matches = match_anchors(
        ANCHORS, target([[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 10.0, 10.0]], crowd=[True, False])
    )
    assert matches.positive[0, 0]
    assert not matches.ignored[0, 0]
    assert matches.ignored[0, 1]


def test_match__padding_changes_nothing() -> None:
    one, two = [[0.0, 0.0, 10.0, 9.0]], [[50.0, 50.0, 60.0, 58.0], [0.0, 0.0, 19.0, 19.0]]
    batch = stack_targets(
        [torch.tensor(one), torch.tensor(two), torch.zeros(0, 4)],
        [torch.tensor([0]), torch.tensor([1, 2]), torch.zeros(0, dtype=torch.int64)],
        [torch.zeros(count, dtype=torch.bool) for count in (1, 2, 0)],
    )
    together = match_anchors(ANCHORS, batch)
    for row, boxes in enumerate([one, two, []]):
        alone = match_anchors(ANCHORS, target(boxes))
        assert torch.equal(together.positive[row], alone.positive[0])
        chosen = alone.positive[0]
        assert torch.equal(together.objects[row][chosen], alone.objects[0][chosen])


@pytest.mark.parametrize("seed", range(5))
def test_match__agrees_with_torchvisions_matcher(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, boxes = scattered(generator, 200), scattered(generator, 5)
    iou = box_iou(boxes, anchors)
    theirs = SSDMatcher(0.5)(iou)
    ours = match_anchors(anchors, target(boxes.tolist()))
    best = iou.argmax(dim=1)
    assert len(best.unique()) == len(boxes), "contested anchors are ordered differently there"
    assert torch.equal(ours.positive[0], theirs >= 0)
    assert torch.equal(ours.objects[0][theirs >= 0], theirs[theirs >= 0])


def scattered(generator: torch.Generator, count: int) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corner, corner + 20 + torch.rand(count, 2, generator=generator) * 80], dim=1)
