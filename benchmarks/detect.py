"""One 640x480 image from array to boxes: our detectors against torchvision's, in one run.

    python benchmarks/detect.py
    python benchmarks/detect.py --threads 2 --rounds 40

Timed is all that comes after decoding: resize, normalization, network, box decoding, NMS.
All are eager, in float32, with random weights and 90 classes (torchvision counts background as the
91st). Ours get an array (H, W, 3) uint8 through ``Detector``; torchvision's get the float tensor
(3, H, W) in [0, 1] that they want, and its making is not counted.

What is left to suppress depends on the scores, so each model's score threshold is set to what lets
the same number of its candidates (pairs of a box and a class) through on this image; at most 100
boxes are kept, 400 candidates of a class are looked at, and two-stage models get 300 proposals. The
table shows how many candidates passed and how many boxes are left.

The sides take turns, ours first; a ratio is the median over the rounds of a peer's time by that of
our SSD-300 in the same round.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

from mobilevision.apps import DetectionResult, Detector
from mobilevision.apps.inference.torch import TorchRuntime
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.detection import SSD, PostProcess
from mobilevision.heads.detection.faster_rcnn import FasterRCNN

CLASSES, MAX_DETECTIONS, TOP_K = 90, 100, 400
HEIGHT, WIDTH = 480, 640
WITHOUT_LIMIT = 10**6


class Side(NamedTuple):
    """A detector whose NMS can be set."""

    run: Callable[[], np.ndarray]
    """Image to scores (K,), falling."""
    limit: Callable[[float, float, int], None]
    """Set score threshold, IoU threshold and most detections."""
    iou_threshold: float
    """Of the model as its authors have it."""


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
    times = take_turns(runs, rounds)
    ratios = {}
    for name in chosen:
        pairs = zip(times[name], times[chosen[0]], strict=True)
        ratios[name] = statistics.median(own / reference for own, reference in pairs)
        print(f"{name:<40}{statistics.median(times[name]):>8.1f}{ratios[name]:>7.2f}x"
              f"{counts[name][0]:>12}{counts[name][1]:>7}", flush=True)  # fmt: skip
    return ratios


def take_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all in turn and return the milliseconds of each; two rounds before do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 2:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def limit_candidates(side: Side, wanted: int) -> int:
    """Set the score threshold that lets ``wanted`` candidates pass; return how many do.

    Without NMS (IoU threshold 1) and limits, what a model returns are its candidates.
    """
    side.limit(0.0, 1.0, WITHOUT_LIMIT)
    scores = np.sort(side.run())[::-1].astype(np.float64)
    threshold = float(scores[wanted - 1 : wanted + 1].mean()) if len(scores) > wanted else 0.0
    side.limit(threshold, 1.0, WITHOUT_LIMIT)
    passed = len(side.run())
    side.limit(threshold, side.iou_threshold, MAX_DETECTIONS)
    return passed


def random_image(seed: int = 0) -> np.ndarray:
    """(480, 640, 3) uint8: smooth colors with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    smooth = nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    noisy = smooth + torch.randn(smooth.shape, generator=generator) * 0.05
    return (noisy[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()


def our_ssd() -> Side:
    """SSD-300 on MobileNet 1.0, as in Table 13 of the MobileNet paper."""
    torch.manual_seed(0)
    return ours(SSD(MobileNetV1(), CLASSES))


def our_faster_rcnn() -> Side:
    """Faster R-CNN at 300x300 on MobileNet 1.0, likewise."""
    torch.manual_seed(0)
    return ours(FasterRCNN(MobileNetV1(out_strides=(16,)), CLASSES))


def ours(network: nn.Module) -> Side:
    """One of our networks behind ``Detector``, with classifiers that say something."""
    network.eval()
    wake(network, lambda images: network(nn.functional.interpolate(images, (300, 300))))
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
    """One of torchvision's one-stage detectors."""
    model = untrained(make)
    model.topk_candidates = TOP_K
    return peer(model, model, "nms_thresh", "score_thresh", "detections_per_img")


def peer_faster_rcnn() -> Side:
    """Torchvision's Faster R-CNN on a MobileNet, with as many proposals as ours."""
    model = untrained(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=300,
        rpn_score_thresh=0.0,
    )
    return peer(model, model.roi_heads, "nms_thresh", "score_thresh", "detections_per_img")


def untrained(make: Callable[..., nn.Module], **options: Any) -> Any:
    """Build a model of torchvision with random weights, in evaluation mode."""
    torch.manual_seed(0)
    model = make(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **options)
    model.eval()
    wake(model, lambda images: model(list(images / 255)))
    return model


def peer(model: nn.Module, part: Any, iou_name: str, score_name: str, most_name: str) -> Side:
    """A model of torchvision whose NMS is set by attributes of one of its parts."""
    usual, image = getattr(part, iou_name), torch.from_numpy(random_image()).permute(2, 0, 1) / 255

    def run() -> np.ndarray:
        with torch.inference_mode():
            return cast("list[dict[str, Tensor]]", model([image]))[0]["scores"].numpy()

    def limit(score: float, iou: float, most: int) -> None:
        setattr(part, score_name, score)
        setattr(part, iou_name, iou)
        setattr(part, most_name, most)

    return Side(run, limit, usual)


@torch.no_grad()
def wake(network: nn.Module, run: Callable[[Tensor], object]) -> None:
    """Make an untrained network say different things of different places and classes.

    Signals fade through untrained layers until all scores are equal. So normalization takes its
    statistics from a few images, and class predictors get random biases.

    Args:
        network: In evaluation mode.
        run: Put images (4, 3, H, W) uint8 through it.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    run(torch.stack([torch.from_numpy(random_image(seed)).permute(2, 0, 1) for seed in range(4)]))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval().momentum = momentum
    for module in network.modules():
        outputs = getattr(module, "out_channels", getattr(module, "out_features", 0))
        if outputs and outputs % (CLASSES + 1) == 0 and module.bias is not None:  # type: ignore[union-attr]
            nn.init.normal_(cast(Tensor, module.bias))


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
