"""What a published weight file becomes, whatever its format."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import WeightsError
from ..layers import ConvNormAct, Padding
from ..mobilenet import BLOCKS, ImageClassifier, MobileNetV1
from .file_tensors import FileTensors

MOST_WIDTH = 8.0
"""Of a width multiplier that a file may have: the largest published one is 1.25."""


class PublicModel(NamedTuple):
    """A network with somebody's weights in it, and what one has to know to use them."""

    path: Path
    """The file."""
    kind: str
    """What the file is, for people."""
    backbone: MobileNetV1
    """All 13 blocks."""
    classifier: ImageClassifier | None
    """With this backbone; None where the file has no classes."""
    backbone_arguments: dict[str, Any]
    """Arguments of the backbone, plain data."""
    head_arguments: dict[str, Any]
    """Further arguments of the classifier, plain data; empty without one."""
    pixel_mean: float
    """Taken from the uint8 pixels."""
    pixel_std: float
    """Then divided by."""
    size_hw: tuple[int, int] | None
    """Input size in pixels that the weights were trained for, where the file or its name says it;
    any other works, too."""
    folded: bool
    """Batch normalisation was folded into the file: call ``calibrate_norms`` before training."""
    notes: tuple[str, ...]
    """What is worth knowing of the conversion, one sentence each."""


def new_public_model(
    path: Path,
    kind: str,
    *,
    width_mult: float,
    padding: Padding,
    norm_eps: float,
    num_classes: int | None,
    head_channels: int | None = None,
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
    size_hw: tuple[int, int] | None = None,
    folded: bool = False,
    notes: tuple[str, ...] = (),
) -> PublicModel:
    """Make the networks, with random weights that the caller replaces; see ``PublicModel``."""
    arguments: dict[str, Any] = {
        "width_mult": width_mult, "out_strides": [32], "padding": padding, "norm_eps": norm_eps
    }  # fmt: skip
    backbone = MobileNetV1(**arguments)
    head: dict[str, Any] = {}
    classifier = None
    if num_classes is not None:
        head = {"num_classes": num_classes}
        if head_channels is not None:
            head |= {"head_channels": head_channels, "norm_eps": norm_eps}
        classifier = ImageClassifier(backbone, **head)
    return PublicModel(
        path, kind, backbone.eval(), classifier and classifier.eval(), arguments, head,
        pixel_mean, pixel_std, size_hw, folded, notes,
    )  # fmt: skip


def width_of(path: Path, channels: int) -> float:
    """Return the width multiplier of a network whose last block has so many channels.

    Raises:
        WeightsError: There are too few or too many to be a MobileNet.
    """
    width_mult = channels / BLOCKS[-1][0]
    if not 1 / 32 <= width_mult <= MOST_WIDTH:
        raise WeightsError(f"{path}: the last block has {channels} channels: not a MobileNetV1")
    return width_mult


@torch.no_grad()
def take_norm(layer: ConvNormAct, tensors: FileTensors, names: tuple[str, str, str, str]) -> None:
    """Fill a layer's batch normalisation: scale, shift, running mean and variance, in this order.

    Raises:
        WeightsError: A tensor is missing or does not fit, or a variance is negative.
    """
    norm = layer.norm
    shape = (norm.num_features,)
    weight, bias, mean, variance = (tensors.take(name, shape) for name in names)
    if (variance < 0).any():
        raise WeightsError(f"{tensors.path}: {names[3]} has negative variances; it is damaged")
    norm.weight.copy_(weight)
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)  # type: ignore[union-attr]
    norm.running_var.copy_(variance)  # type: ignore[union-attr]
