import pytest
import torch
from torch import Tensor
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.ops import batched_nms, box_iou, nms

from mobilevision.heads.detection.boxes import PostProcess, greedy_suppression, rank_in_run


def candidates(
    seed: int, images: int = 3, anchors: int = 200, classes: int = 6
) -> tuple[Tensor, Tensor]:
    """Clustered boxes, so that NMS has something to do, and distinct scores."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(images, 8, 2, generator=generator) * 250 + 20
    which = torch.randint(0, 8, (images, anchors), generator=generator)
    middle = centers.gather(1, which[..., None].expand(-1, -1, 2))
    middle = middle + torch.randn(images, anchors, 2, generator=generator) * 8
    half = 15 + torch.rand(images, anchors, 2, generator=generator) * 20
    scores = torch.rand(images, anchors, classes, generator=generator).pow(4)
    return torch.cat([middle - half, middle + half], dim=-1), scores


class Torchvision(torchvision_ssd.SSD):
    """Torchvision's own SSD post-processing on boxes and probabilities made elsewhere."""

    def __init__(self, process: PostProcess) -> None:
        torch.nn.Module.__init__(self)
        self.score_thresh = process.score_threshold
        self.nms_thresh = process.iou_threshold
        self.detections_per_img = process.max_detections
        self.topk_candidates = process.candidates_per_class
        self.box_coder = self

    def decode_single(self, boxes: Tensor, _: Tensor) -> Tensor:
        return boxes

    def run(self, boxes: Tensor, scores: Tensor, size_hw: tuple[int, int]):
        background = torch.full_like(scores[..., :1], -torch.inf)
        logits = torch.cat([background, scores.log()], dim=-1)  # scores add up to 1
        return self.postprocess_detections(
            {"bbox_regression": boxes, "cls_logits": logits},
            list(boxes),
            [size_hw] * len(boxes),
        )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates_per_class": 7},
        {"max_detections": 5},
        {"iou_threshold": 0.3, "score_threshold": 0.001},
        {"score_threshold": 0.05, "max_detections": 1000},
    ],
)
def test_postprocess__finds_the_same_boxes_as_torchvision(seed: int, options: dict) -> None:
    process = PostProcess(**options)
    boxes, scores = candidates(seed)
    scores = scores / scores.sum(dim=-1, keepdim=True)  # theirs takes a softmax
    ours = process(boxes, scores, (300, 300)).unbatch()
    theirs = Torchvision(process).run(boxes, scores, (300, 300))
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine.boxes) == len(other["boxes"]) > 0
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-4, atol=1e-6)
        assert torch.equal(mine.labels + 1, other["labels"])
        torch.testing.assert_close(mine.boxes, other["boxes"])


def test_postprocess__looks_further_when_the_best_candidates_suppress_each_other() -> None:
    # 60 copies of one box score best; the others lie apart and come later
    apart = torch.arange(10.0)[:, None] * 30 + torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 20.0, 20.0]]).expand(60, 4), apart + 1.0])
    scores = torch.linspace(0.9, 0.2, 70)[:, None]
    found = PostProcess(max_detections=5, iou_threshold=0.5)(boxes[None], scores[None], (600, 600))
    assert len(found.unbatch()[0].labels) == 5


def test_postprocess__keeps_classes_apart() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0]]]).expand(1, 1, 4)
    found = PostProcess()(boxes, torch.tensor([[[0.9, 0.8]]]), (300, 300)).unbatch()[0]
    assert found.labels.tolist() == [0, 1]


def test_postprocess__with_nothing_above_the_threshold() -> None:
    boxes, scores = candidates(0)
    found = PostProcess(score_threshold=0.5)(boxes, scores * 0.1, (300, 300))
    assert found.boxes.shape == (3, 100, 4)
    assert (found.labels == -1).all()
    assert [len(one.scores) for one in found.unbatch()] == [0, 0, 0]


def test_postprocess__cuts_boxes_at_the_image() -> None:
    boxes = torch.tensor([[[-20.0, -20.0, 400.0, 100.0]]])
    found = PostProcess()(boxes, torch.tensor([[[0.9]]]), (200, 300)).unbatch()[0]
    assert found.boxes.tolist() == [[0.0, 0.0, 300.0, 100.0]]


def test_postprocess__of_an_image_does_not_depend_on_its_batch() -> None:
    boxes, scores = candidates(5)
    together = PostProcess()(boxes, scores, (300, 300)).unbatch()
    for row in range(3):
        alone = PostProcess()(boxes[row : row + 1], scores[row : row + 1], (300, 300)).unbatch()[0]
        assert len(alone.boxes) > 0
        for mine, other in zip(alone[:3], together[row][:3], strict=True):
            assert torch.equal(mine, other)


def test_postprocess__one_image_needs_a_second_look__the_others_are_done() -> None:
    """In the second image the best candidates are one box, and all the others come after them."""
    side = torch.arange(200.0)[:, None] * 20
    apart = torch.cat([side, side * 0, side + 10, side * 0 + 10], dim=1)
    same = apart[:1].repeat(200, 1)
    same[-3:] = apart[-3:]
    scores = torch.linspace(0.9, 0.5, 200)[:, None].expand(2, 200, 1)
    process = PostProcess(max_detections=5, candidates_per_class=1000)
    first, second = process(torch.stack([apart, same]), scores, (100, 4000)).unbatch()
    assert torch.equal(first.boxes, apart[:5])
    assert torch.equal(second.boxes, torch.cat([apart[:1], apart[-3:]]))


def test_postprocess__exactly_at_the_thresholds__too_low_and_not_suppressed() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6], [50, 50, 60, 60]]])
    scores = torch.tensor([[[0.75], [0.625], [0.5625], [0.5]]])
    process = PostProcess(score_threshold=0.5, iou_threshold=0.5)
    (found,) = process(boxes, scores, (100, 100)).unbatch()
    # The second box shares half with the first; the third more. The last scores no more than 0.5.
    assert found.scores.tolist() == [0.75, 0.625]


def test_postprocess__when_every_box_is_the_same_keeps_one_of_each_class() -> None:
    # Nothing is decided before every candidate was looked at: all pairs would not fit in memory.
    boxes = torch.tensor([10.0, 10.0, 50.0, 50.0]).expand(2, 1917, 4)
    scores = torch.rand(2, 1917, 90, generator=torch.Generator().manual_seed(0))
    found = PostProcess(candidates_per_class=50)(boxes, scores, (300, 300)).unbatch()
    for one, image in zip(found, scores, strict=True):
        assert one.labels.sort().values.tolist() == list(range(90))
        assert torch.equal(one.scores, image.amax(dim=0)[one.labels])


def test_rank_in_run__counts_from_the_start_of_each_run() -> None:
    assert rank_in_run(torch.tensor([7, 7, 3, 3, 3, 7])).tolist() == [0, 1, 0, 1, 2, 0]
    assert rank_in_run(torch.empty(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_greedy_suppression__is_the_sequential_answer(seed: int) -> None:
    boxes, scores = candidates(seed, images=1, classes=1)
    order = scores[0, :, 0].argsort(descending=True)
    boxes = boxes[0][order]
    better, worse = (box_iou(boxes, boxes) > 0.5).triu(1).nonzero(as_tuple=True)
    kept = greedy_suppression(better, worse, torch.ones(len(boxes), dtype=torch.bool))
    expected = nms(boxes, scores[0, :, 0][order], 0.5)
    assert kept.nonzero().flatten().tolist() == sorted(expected.tolist())


def test_postprocess__matches_batched_nms_on_many_candidates() -> None:
    boxes, scores = candidates(9, images=1, anchors=1917, classes=20)
    process = PostProcess(candidates_per_class=10_000, max_detections=300)
    ours = process(boxes, scores, (300, 300)).unbatch()[0]
    above = scores[0].flatten() > process.score_threshold
    index = above.nonzero().flatten()
    clipped = boxes[0].clamp(0, 300)[index // 20]
    kept = batched_nms(clipped, scores[0].flatten()[index], index % 20, 0.6)[:300]
    torch.testing.assert_close(ours.scores, scores[0].flatten()[index][kept])
    assert torch.equal(ours.boxes, clipped[kept])
