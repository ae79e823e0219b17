"""One 640x480 image from array to boxes: our detectors against torchvision's, in one run.

    python benchmarks/detect.py
    python benchmarks/detect.py --threads 2 --rounds 40

Everything after decoding is timed: resize, normalization, network, box decoding, NMS.
All are eager, in float32, with random weights and 90 classes (torchvision counts background as the
91st). Ours get an array (H, W, 3) uint8 through ``Detector``; torchvision's get a float tensor
(3, H, W) in [0, 1] that is prepared before.

The work of NMS depends on the scores, so each model's score threshold is set to let the same number
of candidates (pairs of a box and a class) pass on this image; at most 100 boxes are kept, at most
400 candidates of a class are considered, and two-stage models get 300 proposals. The table shows
how many candidates passed and how many boxes are left.

The sides take turns; a ratio is the median over the rounds of a peer's time by that of our SSD-300
in the same round.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

from mobilevision.apps import DetectionResult, Detector
from mobilevision.apps.benchmark.peers import threshold_between, wake
from mobilevision.apps.benchmark.processes import time_in_turns
from mobilevision.apps.inference.torch import TorchRuntime
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.detection import SSD, PostProcess
from mobilevision.heads.detection.faster_rcnn import FasterRCNN

CLASSES, MAX_DETECTIONS, TOP_K = 90, 100, 400
HEIGHT, WIDTH = 480, 640
WITHOUT_LIMIT = 10**6


class Side(NamedTuple):
    """A detector whose NMS can be configured."""

    run: Callable[[], np.ndarray]
    """Runs it on an image and returns the scores (K,), falling."""
    limit: Callable[[float, float, int], None]
    """Sets the score threshold, the IoU threshold and the maximum number of detections."""
    iou_threshold: float
    """The default of the model."""


def compare(
    rounds: int = 30, threads: int = 1, candidates: int = TOP_K, sides: tuple[str, ...] = ()
) -> dict[str, float]:
    """Print the time of each side, its ratio to our SSD-300, candidates and boxes.

    Args:
        rounds: Runs of each side; the medians are shown.
        threads: Threads of torch.
        candidates: Pairs of a box and a class that pass each model's score threshold.
        sides: Names of the sides to run; all if empty.

    Returns:
        The ratios by name.
    """
    torch.set_num_threads(threads)
    print(f"{WIDTH}x{HEIGHT}, float32, eager, {CLASSES} classes, {threads} thread(s)\n")
    print(f"{'detector':<40}{'ms':>8}{'ratio':>8}{'candidates':>12}{'boxes':>7}")
    chosen = sides or tuple(SIDES)
    runs, counts = {}, {}
    for name in chosen:
        side = SIDES[name]()
        passed = limit_candidates(side, candidates)
        counts[name] = (passed, len(side.run()))
        runs[name] = side.run
    times = time_in_turns(runs, rounds)
    ratios = {name: times.ratio(name, chosen[0]) for name in chosen}
    for name in chosen:
        print(f"{name:<40}{times.median(name) * 1e3:>8.1f}{ratios[name]:>7.2f}x"
              f"{counts[name][0]:>12}{counts[name][1]:>7}", flush=True)  # fmt: skip
    return ratios


def limit_candidates(side: Side, wanted: int) -> int:
    """Set the score threshold that lets ``wanted`` candidates pass; return how many do.

    Without NMS (IoU threshold 1) and limits, the outputs of a model are its candidates.
    """
    side.limit(0.0, 1.0, WITHOUT_LIMIT)
    threshold = threshold_between(side.run(), wanted)
    side.limit(threshold, 1.0, WITHOUT_LIMIT)
    passed = len(side.run())
    side.limit(threshold, side.iou_threshold, MAX_DETECTIONS)
    return passed


def random_image(seed: int = 0) -> np.ndarray:
    """Return an image (480, 640, 3) uint8 of smooth colors with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    smooth = nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    noisy = smooth + torch.randn(smooth.shape, generator=generator) * 0.05
    return (noisy[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()


def random_batch() -> Tensor:
    """Return four random images, (4, 3, 480, 640) uint8."""
    return torch.stack([torch.from_numpy(random_image(seed)) for seed in range(4)]).permute(
        0, 3, 1, 2
    )


def our_ssd() -> Side:
    """SSD-300 on MobileNet 1.0, as in Table 13 of the MobileNet paper."""
    torch.manual_seed(0)
    return ours(SSD(MobileNetV1(), CLASSES))


def our_faster_rcnn() -> Side:
    """Faster R-CNN at 300x300 on MobileNet 1.0, likewise."""
    torch.manual_seed(0)
    return ours(FasterRCNN(MobileNetV1(out_strides=(16,)), CLASSES))


def ours(network: nn.Module) -> Side:
    """Return one of our networks behind ``Detector``, with biases that make the scores differ."""
    network.eval()
    images = nn.functional.interpolate(random_batch(), (300, 300))
    wake(network, lambda: network(images), CLASSES + 1)
    detector = Detector.from_network(
        network, {number: str(number) for number in range(1, CLASSES + 1)}, device="cpu"
    )
    process = cast(PostProcess, cast(TorchRuntime, detector.runtime).network.network.postprocess)
    process.candidates_per_class = TOP_K
    usual, image = process.iou_threshold, random_image()

    def run() -> np.ndarray:
        return cast(DetectionResult, detector(image, score_threshold=0.0)).scores

    def limit(score: float, iou: float, most: int) -> None:
        process.score_threshold, process.iou_threshold = score, iou
        process.max_detections = min(most, 4 * TOP_K)  # enough for those that are wanted

    return Side(run, limit, usual)


def peer_ssd(make: Callable[..., nn.Module]) -> Side:
    """Return one of torchvision's one-stage detectors."""
    model = untrained(make)
    model.topk_candidates = TOP_K
    return peer(model, model)


def peer_faster_rcnn() -> Side:
    """Return torchvision's Faster R-CNN on a MobileNet, with as many proposals as ours."""
    model = untrained(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=300,
        rpn_score_thresh=0.0,
    )
    return peer(model, model.roi_heads)


def untrained(make: Callable[..., nn.Module], **options: Any) -> Any:
    """Build a model of torchvision with random weights, in evaluation mode."""
    torch.manual_seed(0)
    model = make(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **options)
    model.eval()
    wake(model, lambda: model(list(random_batch() / 255)), CLASSES + 1)
    return model


def peer(model: nn.Module, part: Any) -> Side:
    """Return a model of torchvision, one part of which has the settings of NMS."""
    usual, image = part.nms_thresh, torch.from_numpy(random_image()).permute(2, 0, 1) / 255

    def run() -> np.ndarray:
        with torch.inference_mode():
            return cast("list[dict[str, Tensor]]", model([image]))[0]["scores"].numpy()

    def limit(score: float, iou: float, most: int) -> None:
        part.score_thresh, part.nms_thresh, part.detections_per_img = score, iou, most

    return Side(run, limit, usual)


SIDES: dict[str, Callable[[], Side]] = {
    "ours: SSD-300": our_ssd,
    "ours: Faster R-CNN 300": our_faster_rcnn,
    "ssdlite320_mobilenet_v3_large": partial(peer_ssd, detection.ssdlite320_mobilenet_v3_large),
    "fasterrcnn_mobilenet_v3_large_320_fpn": peer_faster_rcnn,
    "ssd300_vgg16": partial(peer_ssd, detection.ssd300_vgg16),
}


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
