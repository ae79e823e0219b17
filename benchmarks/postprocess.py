"""Post-processing: ours against torchvision's SSD, on the same boxes and scores in one run.

    python benchmarks/postprocess.py
    python benchmarks/postprocess.py --data ../shared/data --threads 2

Both get the decoded boxes of 1,917 anchors and their scores in 90 classes, consider at most 300
candidates of a class, suppress at an IoU of 0.6 and return the best 100. "trained" are the public
COCO SSD's predictions for images of val2017 if they are available, and a few high scores among low
ones otherwise; "dense" are random scores, as those of an untrained network. The sides take turns; a
case's ratio is the median of the ratios of its rounds.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import ssd as torchvision_ssd

from mobilevision.apps.benchmark.processes import time_in_turns
from mobilevision.datasets.types import Detections
from mobilevision.heads.detection.boxes import PostProcess
from mobilevision.heads.detection.weights import load_tensorflow_ssd

ANCHORS, CLASSES, CANDIDATES = 1917, 90, 300
SIZE_HW: tuple[int, int] = (300, 300)
THRESHOLDS = (0.01, 0.001)
WEIGHTS = "weights/ssd_mobilenet_v1_0.75_coco_300.npz"

Found = list[dict[str, Tensor]]


class Scene(NamedTuple):
    """The decoded output of a network for a batch."""

    boxes: Tensor
    """(B, A, 4) float32, xyxy pixels."""
    scores: Tensor
    """(B, A, 1 + C) float32 in [0, 1], background first."""


class Torchvision(torchvision_ssd.SSD):
    """Torchvision's SSD without its network: boxes come decoded, scores after the activation."""

    def __init__(self, process: PostProcess) -> None:
        torch.nn.Module.__init__(self)
        self.score_thresh = process.score_threshold
        self.nms_thresh = process.iou_threshold
        self.detections_per_img = process.max_detections
        self.topk_candidates = process.candidates_per_class
        self.box_coder = self  # type: ignore[assignment]

    def decode_single(self, boxes: Tensor, _: Tensor) -> Tensor:
        """Return the boxes as they are, in place of a box coder."""
        return boxes

    def run(self, scene: Scene) -> Found:
        """Return what torchvision finds, a dict for each image."""
        output = {"bbox_regression": scene.boxes, "cls_logits": scene.scores}
        shapes = [SIZE_HW] * len(scene.boxes)
        # Its only use of F is the softmax, which would turn the scores into others.
        with mock.patch.object(torchvision_ssd, "F", SimpleNamespace(softmax=lambda x, **_: x)):
            return self.postprocess_detections(output, list(scene.boxes), shapes)


def compare(
    data: Path | None = None, batches: tuple[int, ...] = (1, 8), rounds: int = 15, threads: int = 1
) -> None:
    """Print the time of both sides, their ratio, and whether they find the same boxes.

    Args:
        data: Folder with COCO images and the public SSD's weights; ``MOBILEVISION_DATA`` where
            it is not given.
        batches: Images at once.
        rounds: Runs of each side in each case; the medians are shown.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    root = data or Path(os.environ.get("MOBILEVISION_DATA", ""))
    real = (root / WEIGHTS).is_file()
    print(f"{ANCHORS:,} anchors, {CLASSES} classes, {CANDIDATES} candidates of a class, "
          f"{threads} thread(s)")  # fmt: skip
    print(f"trained: {'the public COCO SSD on val2017' if real else 'generated sparse scores'}\n")
    print(f"{'scores':<9}{'batch':>6}{'threshold':>11}{'torchvision ms':>16}{'ours ms':>9}"
          f"{'ratio':>8}  same boxes")  # fmt: skip
    for batch in batches:
        trained = detector_scene(root, batch) if real else sparse_scores(batch)
        for name, scene in (("trained", trained), ("dense", dense_scores(batch))):
            for threshold in THRESHOLDS:
                row = measure(scene, threshold, rounds)
                print(f"{name:<9}{batch:>6}{threshold:>11}{row}", flush=True)


def measure(scene: Scene, threshold: float, rounds: int) -> str:
    """Time both sides in turns and return the columns of the table."""
    process = PostProcess(score_threshold=threshold, candidates_per_class=CANDIDATES)
    peer = Torchvision(process)

    def ours() -> Detections:
        return process(scene.boxes, scene.scores[..., 1:], SIZE_HW)

    same = agree(ours().unbatch(), peer.run(scene))
    times = time_in_turns({"peer": lambda: peer.run(scene), "ours": ours}, rounds, warm_up=0)
    medians = [1e3 * times.median(name) for name in ("peer", "ours")]
    ratio = times.ratio("peer", "ours")
    return f"{medians[0]:>16.1f}{medians[1]:>9.1f}{ratio:>7.1f}x  {'yes' if same else 'NO'}"


def agree(ours: list[Detections], theirs: Found) -> bool:
    """Return whether the labels are equal, and scores and boxes up to rounding."""
    return all(
        torch.equal(mine.labels + 1, other["labels"])
        and torch.allclose(mine.scores, other["scores"])
        and torch.allclose(mine.boxes, other["boxes"], atol=1e-3)
        for mine, other in zip(ours, theirs, strict=True)
    )


@torch.inference_mode()
def detector_scene(root: Path, batch: int) -> Scene:
    """Run the public SSD (width 0.75) on the first images of val2017."""
    network = load_tensorflow_ssd(root / WEIGHTS, width_mult=0.75)
    paths = sorted((root / "coco" / "val2017").glob("*.jpg"))[:batch]
    opened = [Image.open(path).convert("RGB").resize(SIZE_HW) for path in paths]
    images = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in opened])
    output = network(images)
    boxes = network.box_coder.decode(output.box_deltas, output.anchors)
    return Scene(boxes, _with_background(network.scores(output)))


def sparse_scores(batch: int, seed: int = 0) -> Scene:
    """Generate boxes around six objects in each image and few high scores, like a detector's."""
    generator = torch.Generator().manual_seed(seed)
    # In float32 some of so many random numbers would be equal, and their order undefined.
    scores = torch.rand(batch, ANCHORS, CLASSES, generator=generator, dtype=torch.float64)
    return Scene(_clustered_boxes(batch, 6, generator), _with_background(scores.pow(40).float()))


def dense_scores(batch: int, seed: int = 0) -> Scene:
    """Generate boxes around forty places in each image and random scores that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, ANCHORS, 1 + CLASSES, generator=generator) * 2
    return Scene(_clustered_boxes(batch, 40, generator), logits.softmax(dim=-1))


def _with_background(scores: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(scores[..., :1]), scores], dim=-1)


def _clustered_boxes(batch: int, clusters: int, generator: torch.Generator) -> Tensor:
    places = torch.rand(batch, clusters, 2, generator=generator) * 260 + 20
    which = torch.randint(0, clusters, (batch, ANCHORS), generator=generator)
    centers = places.gather(1, which[..., None].expand(-1, -1, 2))
    centers = centers + torch.randn(batch, ANCHORS, 2, generator=generator) * 8
    half = 10 + torch.rand(batch, ANCHORS, 2, generator=generator) * 50
    return torch.cat([centers - half, centers + half], dim=-1)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
