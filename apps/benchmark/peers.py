"""Networks of others with random weights, in eager torch, as their packages have them.

Signals fade through untrained layers until all scores are equal, or so small that arithmetic gets
slow. So normalization takes its statistics from a few images, class predictors of detectors get
random biases, and their score threshold is set to let a known number of candidates pass.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.errors import DataError
from ...heads.checkpoint import load_task
from ...heads.detection.task import DetectionTask
from ...heads.task import ImageTask
from ..inference.detection import Detector
from ..inference.jobs import predictor_of
from ..inference.torch import as_batch, run_task
from .loader import Opened, Run


def open_checkpoint(source: str, threads: int) -> Opened:
    """Open a checkpoint in eager torch, as the Python API runs it.

    Detectors run through ``Detector``; for the other jobs an image is resized and goes through
    the network as their Python APIs prepare it.
    """
    torch.set_num_threads(threads)
    path = Path(source)
    task = load_task(path, ImageTask)
    runtime = run_task(predictor_of(task), task, "cpu", source=str(path))
    height, width = runtime.metadata.size_hw
    network = cast(nn.Module, getattr(runtime.network.network, "network", runtime.network.network))
    if isinstance(task, DetectionTask):
        return Opened(_detecting(Detector(runtime)), running(network, as_batch))
    return Opened(
        running(network, lambda images: resized(as_batch(images), (height, width))),
        running(network, as_batch),
    )


def running(network: nn.Module, prepare: Callable[[np.ndarray], object]) -> Run:
    """A network behind its preparation, without gradients."""

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return network(prepare(images))

    return run


def resized(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels (B, 3, H, W) uint8 at a size, as training resizes them."""
    if pixels.shape[2:] == size_hw:
        return pixels
    return F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)


def _detecting(detector: Detector) -> Run:
    def run(images: np.ndarray) -> object:
        return detector(list(images), batch_size=len(images))

    return run


_WITHOUT_LIMIT = 10**6
_COCO_CLASSES = 91


@dataclass(frozen=True)
class Peer:
    """A network of somebody else.

    Attributes:
        name: As its package calls it.
        network: In evaluation mode.
        size_hw: Height and width that it works at; None for detectors, which resize by themselves.
        prepare: Pixels (B, 3, h, w) uint8 of that size to what the network takes.
    """

    name: str
    network: nn.Module
    size_hw: tuple[int, int] | None
    prepare: Callable[[Tensor], Any]

    def __call__(self, images: np.ndarray) -> Any:
        """Answer images (B, H, W, 3) uint8."""
        with torch.inference_mode():
            return self.network(self.ready(images))

    def ready(self, images: np.ndarray) -> Any:
        """What the network takes for images (B, H, W, 3) uint8."""
        pixels = as_batch(images)
        return self.prepare(pixels if self.size_hw is None else resized(pixels, self.size_hw))


def write_peer(word: str, folder: Path, candidates: int, image: np.ndarray) -> tuple[Peer, Path]:
    """Make a network of others and keep its weights, so that processes load them as people do.

    Args:
        word: Such as ``torchvision:ssdlite320``, ``timm:resnet18`` or ``facenet``.
        folder: Where its file goes.
        candidates: Pairs of a box and a class that pass a detector's score threshold.
        image: (H, W, 3) uint8, on which they are counted.

    Raises:
        DataError: There is no such network, or its package is not installed.
    """
    torch.manual_seed(0)
    peer = make_peer(word)
    images = np.stack([np.roll(image, 40 * number, axis=1) for number in range(4)])
    wake(peer.network, lambda: peer(images))
    threshold = None
    if peer.size_hw is None:
        threshold = limit_candidates(peer, candidates, image)
    path = folder / f"{peer.name}.pt"
    torch.save(peer.network.state_dict(), path)
    description = {"word": word, "weights": str(path), "score_threshold": threshold}
    source = path.with_suffix(".json")
    source.write_text(json.dumps(description))
    return peer, source


def open_peer(source: str, threads: int) -> Opened:
    """Open a network of others; the source is what ``write_peer`` wrote."""
    torch.set_num_threads(threads)
    description = json.loads(Path(source).read_text())
    peer = make_peer(description["word"])
    peer.network.load_state_dict(torch.load(description["weights"], weights_only=True))
    if peer.size_hw is None:
        _suppression(peer.network).score_thresh = description["score_threshold"]
        return Opened(peer)
    ready = peer.ready(np.full((1, *peer.size_hw, 3), 127, np.uint8))
    return Opened(peer, running(peer.network, lambda _: ready))


def make_peer(word: str) -> Peer:
    """Build a network of others with random weights.

    Raises:
        DataError: There is no such network, or its package is not installed.
    """
    kind, _, name = word.partition(":")
    if kind not in _MAKERS:
        raise DataError(
            f"--against {word}: give a model file, torchvision:NAME, timm:NAME or facenet."
        )
    try:
        peer = _MAKERS[kind](name)
    except ImportError as error:
        raise DataError(f"--against {word}: needs the package {error.name}.") from error
    peer.network.eval().requires_grad_(False)
    return peer


def one_of(name: str, names: list[str], package: str) -> str:
    """The name that is meant, of which the beginning is enough where it is the only one.

    Raises:
        DataError: There is none, or more than one.
    """
    found = [name] if name in names else [each for each in names if name and each.startswith(name)]
    if len(found) != 1:
        what = f"is the beginning of {', '.join(found)}" if found else "is no model of it"
        raise DataError(f"--against {package}:{name}: {name!r} {what}. Give a whole name.")
    return found[0]


def _torchvision(name: str) -> Peer:
    from torchvision import models

    detectors = models.list_models(module=models.detection)
    detectors = [each for each in detectors if not each.startswith(("mask", "keypoint"))]
    name = one_of(name, detectors + models.list_models(module=models), "torchvision")
    if name in detectors:
        model = models.get_model(name, weights=None, weights_backbone=None)
        return Peer(name, model, None, lambda pixels: list(pixels / 255))
    preset = cast(Any, models.get_model_weights(name)).DEFAULT.transforms()
    size = preset.crop_size[0]
    model = models.get_model(name, weights=None)
    return Peer(name, model, (size, size), _normalizing(preset.mean, preset.std))


def _timm(name: str) -> Peer:
    import timm

    name = one_of(name, timm.list_models(), "timm")
    model = timm.create_model(name)
    config = cast(Any, model).pretrained_cfg
    size_hw = cast("tuple[int, int]", tuple(config["input_size"][1:]))
    return Peer(name, model, size_hw, _normalizing(config["mean"], config["std"]))


def _facenet(name: str) -> Peer:
    from facenet_pytorch import InceptionResnetV1

    if name:
        raise DataError(f"--against facenet:{name}: there is one network; write facenet.")
    network = InceptionResnetV1(pretrained=None)
    return Peer("InceptionResnetV1", network, (160, 160), lambda pixels: (pixels - 127.5) / 128)


def _normalizing(mean: Any, std: Any) -> Callable[[Tensor], Tensor]:
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
    return lambda pixels: (pixels / 255 - mean) / std


_MAKERS: dict[str, Callable[[str], Peer]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "facenet": _facenet,
}


@torch.no_grad()
def wake(network: nn.Module, run: Callable[[], object], columns: int = _COCO_CLASSES) -> None:
    """Make an untrained network say different things of different places and classes.

    Args:
        network: In evaluation mode.
        run: Puts a few images through it.
        columns: Classes of a detector, background included.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    run()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval().momentum = momentum
    for module in network.modules():
        outputs = getattr(module, "out_channels", getattr(module, "out_features", 0))
        if outputs and outputs % columns == 0 and module.bias is not None:
            nn.init.normal_(cast(Tensor, module.bias))


def limit_candidates(detector: Peer, wanted: int, image: np.ndarray) -> float:
    """The score threshold that lets so many candidates of an image pass; it is set, too.

    Without NMS (IoU threshold 1) and limits, what a model returns are its candidates.
    """
    part = _suppression(detector.network)
    usual = (part.nms_thresh, part.detections_per_img)
    part.score_thresh, part.nms_thresh, part.detections_per_img = 0.0, 1.0, _WITHOUT_LIMIT
    (found,) = detector(image[None])
    scores = found["scores"].double().sort(descending=True).values
    threshold = 0.0
    if len(scores) > wanted:
        threshold = float(scores[wanted - 1 : wanted + 1].mean())
    part.score_thresh, (part.nms_thresh, part.detections_per_img) = threshold, usual
    return threshold


def _suppression(model: nn.Module) -> Any:
    """The part of one of torchvision's detectors that has the settings of NMS."""
    return getattr(model, "roi_heads", model)
