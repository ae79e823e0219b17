"""Third-party networks with random weights, in eager torch, as their packages provide them.

Signals vanish in untrained layers until all scores are equal, or so small that arithmetic gets
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

    Detectors run through ``Detector``; for the other jobs the images are resized and go through
    the network.
    """
    torch.set_num_threads(threads)
    path = Path(source)
    task = load_task(path, ImageTask)
    runtime = run_task(predictor_of(task), task, "cpu", source=str(path))
    height, width = runtime.metadata.size_hw
    network = cast(nn.Module, getattr(runtime.network.network, "network", runtime.network.network))
    if isinstance(task, DetectionTask):
        detector = Detector(runtime)
        whole: Run = lambda images: detector(list(images), batch_size=len(images))  # noqa: E731
    else:
        whole = running(network, lambda images: resized(as_batch(images), (height, width)))
    return Opened(whole, running(network, as_batch))


def running(network: nn.Module, prepare: Callable[[np.ndarray], object]) -> Run:
    """Return a function that prepares images and runs a network without gradients."""

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return network(prepare(images))

    return run


def resized(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize pixels (B, 3, H, W) uint8 as in training."""
    if pixels.shape[2:] == size_hw:
        return pixels
    return F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)


_WITHOUT_LIMIT = 10**6
_COCO_CLASSES = 91


@dataclass(frozen=True)
class Peer:
    """A third-party network.

    Attributes:
        name: Its name in its package.
        network: In evaluation mode.
        size_hw: Height and width of its input; None for detectors, which resize by themselves.
        prepare: Pixels (B, 3, h, w) uint8 of that size to the input of the network.
    """

    name: str
    network: nn.Module
    size_hw: tuple[int, int] | None
    prepare: Callable[[Tensor], Any]

    def __call__(self, images: np.ndarray) -> Any:
        """Run the network on images (B, H, W, 3) uint8."""
        with torch.inference_mode():
            return self.network(self.ready(images))

    def ready(self, images: np.ndarray) -> Any:
        """Return the input of the network for images (B, H, W, 3) uint8."""
        pixels = as_batch(images)
        return self.prepare(pixels if self.size_hw is None else resized(pixels, self.size_hw))


def write_peer(word: str, folder: Path, candidates: int, image: np.ndarray) -> tuple[Peer, Path]:
    """Build a third-party network and write its weights to a file, which processes load.

    Args:
        word: Name such as ``torchvision:ssdlite320``, ``timm:resnet18`` or ``facenet``.
        folder: Folder for the file.
        candidates: Pairs of a box and a class in the image that pass a detector's score threshold.
        image: (H, W, 3) uint8.

    Raises:
        DataError: There is no such network, or its package is not installed.
    """
    torch.manual_seed(0)
    peer = make_peer(word)
    images = np.stack([np.roll(image, 40 * number, axis=1) for number in range(4)])
    wake(peer.network, lambda: peer(images))
    threshold = limit_candidates(peer, candidates, image) if peer.size_hw is None else None
    path = folder / f"{peer.name}.pt"
    torch.save(peer.network.state_dict(), path)
    description = {"word": word, "weights": str(path), "score_threshold": threshold}
    source = path.with_suffix(".json")
    source.write_text(json.dumps(description))
    return peer, source


def open_peer(source: str, threads: int) -> Opened:
    """Open a file of ``write_peer``."""
    torch.set_num_threads(threads)
    description = json.loads(Path(source).read_text(encoding="utf-8"))
    peer = make_peer(description["word"])
    peer.network.load_state_dict(torch.load(description["weights"], weights_only=True))
    if peer.size_hw is None:
        _suppression(peer.network).score_thresh = description["score_threshold"]
        return Opened(peer)
    ready = peer.ready(np.full((1, *peer.size_hw, 3), 127, np.uint8))
    return Opened(peer, running(peer.network, lambda _: ready))


def make_peer(word: str) -> Peer:
    """Build a third-party network with random weights.

    Raises:
        DataError: There is no such network, or its package is not installed.
    """
    kind, _, name = word.partition(":")
    if kind not in _MAKERS:
        what = "give a model file, torchvision:NAME, timm:NAME or facenet."
        raise DataError(f"--against {word}: {what}")
    try:
        peer = _MAKERS[kind](name)
    except ImportError as error:
        raise DataError(f"--against {word}: needs the package {error.name}.") from error
    peer.network.eval().requires_grad_(False)
    return peer


def one_of(name: str, names: list[str], package: str) -> str:
    """Complete a name of which only a unique prefix may be given.

    Raises:
        DataError: There is no such name, or more than one.
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


_MAKERS = {"torchvision": _torchvision, "timm": _timm, "facenet": _facenet}


@torch.no_grad()
def settle(network: nn.Module, run: Callable[[], object]) -> None:
    """Give normalization the statistics of a few images, which ``run`` puts through the network."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


@torch.no_grad()
def wake(network: nn.Module, run: Callable[[], object], columns: int = _COCO_CLASSES) -> None:
    """Make the scores of an untrained detector differ between places and classes.

    The arguments are as for ``settle``; ``columns`` are the classes, including background.
    """
    settle(network, run)
    for module in network.modules():
        outputs = getattr(module, "out_channels", getattr(module, "out_features", 0))
        if outputs and outputs % columns == 0 and module.bias is not None:
            nn.init.normal_(cast(Tensor, module.bias))


def limit_candidates(detector: Peer, wanted: int, image: np.ndarray) -> float:
    """Set and return the score threshold that lets ``wanted`` candidates of an image pass.

    Without NMS (IoU threshold 1) and limits, the outputs of a model are its candidates.
    """
    part = _suppression(detector.network)
    usual = (part.nms_thresh, part.detections_per_img)
    part.score_thresh, part.nms_thresh, part.detections_per_img = 0.0, 1.0, _WITHOUT_LIMIT
    (found,) = detector(image[None])
    threshold = threshold_between(found["scores"].numpy(), wanted)
    part.score_thresh, (part.nms_thresh, part.detections_per_img) = threshold, usual
    return threshold


def threshold_between(scores: np.ndarray, wanted: int) -> float:
    """Return a threshold that ``wanted`` scores exceed, 0 if there are not more."""
    scores = np.sort(scores)[::-1].astype(np.float64)
    return float(scores[wanted - 1 : wanted + 1].mean()) if len(scores) > wanted else 0.0


def _suppression(model: nn.Module) -> Any:
    """Return the part of a torchvision detector with the settings of NMS."""
    return getattr(model, "roi_heads", model)
