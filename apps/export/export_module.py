"""Networks of any job prepared for export, with resize and metadata."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ...backbone.layers import ConvNormAct, FusedConvAct, fuse
from ...backbone.mobilenet import MobileNetV1
from ...datasets.images import stretch
from ...heads.checkpoint import load_task
from ...heads.detection.ssd import MapPredictor, Predictors, as_rows
from ...heads.face_detection.model import LANDMARKS, LandmarkPredictor, LandmarkPredictors
from ...heads.task import ImageTask
from ..inference.jobs import predictor_of
from ..inference.runtime import ModelMetadata
from ..inference.torch import AdaptedNetwork, input_size
from .nms import make_exportable


def for_export(network: nn.Module) -> nn.Module:
    """Return a copy of a network without anything that only training needs.

    Normalization that ``fuse`` does not fold, such as after a shared convolution, becomes a factor
    and an offset for each channel. Each map has one convolution for boxes and classes together, and
    the division of pixels becomes part of the weights of the first convolution.
    """
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    own = fuse(network) if foldable else copy.deepcopy(network).eval()
    _divide_in_stem(own)
    for module in list(own.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, ChannelAffine(child))
            elif isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size == 1:
                setattr(module, name, Mean())
            elif type(child) is Predictors or type(child) is LandmarkPredictors:
                # Other subclasses have further layers before.
                setattr(module, name, MergedPredictors(child))
    return own.requires_grad_(False)


def _divide_in_stem(network: nn.Module) -> None:
    """Move the division of pixels into the weights of the first convolution, which is linear."""
    body = next((each for each in network.modules() if isinstance(each, MobileNetV1)), None)
    divisor = getattr(network, "pixel_std", None)
    if body is None or divisor is None or not isinstance(body.stem, FusedConvAct):
        return
    body.stem.weight.data = body.stem.weight / divisor
    setattr(network, "pixel_std", 1.0)  # noqa: B010 (a number; Module's own type says otherwise)


class Mean(nn.Module):
    """A replacement of ``AdaptiveAvgPool2d(1)``, whose export has superfluous copies."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, 1, 1) for features (B, C, H, W)."""
        return features.mean(dim=(2, 3), keepdim=True)


class MergedPredictors(nn.Module):
    """SSD's ``Predictors`` with one convolution for each map: boxes, classes and any landmarks.

    A separate convolution with four channels for each box would be inefficient.
    """

    def __init__(self, original: Predictors) -> None:
        super().__init__()
        self.columns = [4, original.num_columns]
        if isinstance(original, LandmarkPredictors):
            self.columns.append(LANDMARKS * 2)
        self.maps = nn.ModuleList(_merged(cast(MapPredictor, predictor)) for predictor in original)

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """As ``Predictors``, all maps in one."""
        outputs = [conv(map_) for conv, map_ in zip(self.maps, maps, strict=True)]
        rows = torch.cat([as_rows(output, sum(self.columns)) for output in outputs], dim=1)
        deltas, logits, *points = rows.split(self.columns, dim=2)
        return [(deltas, logits, *(each.unflatten(2, (LANDMARKS, 2)) for each in points))]


def _merged(predictor: MapPredictor) -> nn.Conv2d:
    """Merge the 1x1 convolutions; the channels are offsets, logits and landmarks of box by box."""
    layers = [predictor.boxes, predictor.classes]
    if isinstance(predictor, LandmarkPredictor):
        layers.append(predictor.landmarks)
    boxes = predictor.boxes.out_channels // 4
    channels = sum(layer.out_channels for layer in layers)
    merged = nn.Conv2d(predictor.boxes.in_channels, channels, 1)
    for name, value in merged.named_parameters():
        by_box = [getattr(layer, name).detach().unflatten(0, (boxes, -1)) for layer in layers]
        value.data = torch.cat(by_box, dim=1).flatten(0, 1)
    return merged


class ChannelAffine(nn.Module):
    """Fixed batch normalization, (B, C) or (B, C, H, W): a factor and an offset for a channel."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        factor = torch.rsqrt(var + norm.eps)
        if norm.affine:
            factor = factor * norm.weight.detach()
        offset = -mean * factor + (norm.bias.detach() if norm.affine else 0)
        shape = (-1,) if isinstance(norm, nn.BatchNorm1d) else (-1, 1, 1)
        self.factor = nn.Buffer(factor.view(shape))
        self.offset = nn.Buffer(offset.view(shape))

    def forward(self, values: Tensor) -> Tensor:
        """Return values * factor + offset."""
        return values * self.factor + self.offset


UNKNOWN = "unknown"
_LARGEST = 1 << 16


class DeployedNetwork(nn.Module):
    """A network with resize: decoded images to named outputs.

    The resize is Pillow's (bilinear with antialiasing on uint8), as in training and evaluation.
    Images that have the network's size already are not changed by it.

    Args:
        adapted: Pixels of the network's size and the size of the images to the outputs.
        size_hw: Height and width of the network's input.
    """

    def __init__(self, adapted: nn.Module, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.adapted = adapted
        self.size_hw = size_hw

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for images (B, H, W, 3) uint8 RGB."""
        image_hw = (images.shape[1], images.shape[2])
        pixels = images.permute(0, 3, 1, 2)
        # Open sizes are symbols, not integers, and the resize then stays in the graph.
        if not all(isinstance(side, int) for side in image_hw) or image_hw != self.size_hw:
            pixels = F.interpolate(pixels, self.size_hw, mode="bilinear", antialias=True)
        return self.adapted(pixels, image_hw)


@dataclass(frozen=True)
class Deployable:
    """A network that is ready for export.

    Attributes:
        module: Images (B, H, W, 3) uint8 RGB to the outputs in ``metadata``, in order.
        metadata: Metadata of the file.
        fit: ``Predictor.fit`` of the job.
    """

    module: DeployedNetwork
    metadata: ModelMetadata
    fit: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = stretch

    def program(self, batch: int | None = None, any_image: bool = True) -> ExportedProgram:
        """Trace the network.

        Args:
            batch: Images in a batch; None takes any number.
            any_image: Whether to take and resize images of any size, or only images of the
                network's size.
        """
        height, width = self.metadata.size_hw
        if any_image:  # the network's own size would be taken for a constant
            height, width = height + 13, width + 29
        names = {0: "batch"} if batch is None else {}
        names |= {1: "height", 2: "width"} if any_image else {}
        axes = {axis: Dim(name, min=1, max=_LARGEST) for axis, name in names.items()}
        example = torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8)
        with torch.no_grad():
            self.module(example)  # computes and caches the anchors, so that they are constants
            return torch.export.export(self.module, (example,), dynamic_shapes=(axes,))


def open_deployable(path: str | Path, size_hw: tuple[int, int] | None = None) -> Deployable:
    """Prepare a checkpoint of any job for export, by default with the input size of training.

    Raises:
        DataError: It cannot be read or rebuilt, belongs to no job that can be exported, or has no
            size.
    """
    path = Path(path)
    task = load_task(path, ImageTask)
    predictor = predictor_of(task)
    size_hw = input_size(task, size_hw, str(path))
    origin = task.metadata.get("provenance") or {}
    metadata = replace(
        predictor.describe(task, size_hw),
        # Checkpoints of before spell it with a c.
        license=str(origin.get("license") or origin.get("licence") or UNKNOWN),
        provenance=_provenance(path, task.metadata),
    )
    network = predictor.adapted(task, prepare_for_export)
    adapted = AdaptedNetwork(network, predictor.outputs, size_hw)
    return Deployable(DeployedNetwork(adapted, size_hw).eval(), metadata, predictor.fit)


def prepare_for_export(network: nn.Module) -> nn.Module:
    """Return a copy of a network without training parts, and with NMS that can be exported."""
    return make_exportable(for_export(network))


def _provenance(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the origin of a model and the versions that wrote it, as plain data."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": digest,
        "weights": stored.get("provenance") or {},
        "mobilevision": version("mobilevision"),
        "torch": torch.__version__,
    }
