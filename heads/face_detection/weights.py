"""The public RetinaFace of Pytorch_Retinaface (MIT license), loaded strictly by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import MobileNetV1
from ...backbone.weights.converters import take_norm
from ...backbone.weights.formats import FileTensors, file_format, read_state_dict
from ...datasets.faces.wider_face import FACE
from ..checkpoint import Plan
from ..detection.weights import PublicDetector
from .model import STRIDES, ContextModule, ContextPyramid, LandmarkPredictor, RetinaFace

SIZE_HW = (640, 640)  # of its training
_PARALLEL = "module."
_STEM = "body.stage1.0.0.weight"
_HEADS = ("ClassHead.0.conv1x1.weight", "BboxHead.0.conv1x1.weight")
_STAGE_BLOCKS = (("stage1", range(1, 6)), ("stage2", range(6)), ("stage3", range(2)))


def is_retinaface(path: Path) -> bool:
    """Return whether a file is a state dict with the names of the public RetinaFace.

    Raises:
        WeightsError: No such file, or a damaged one.
    """
    if file_format(path) != "torch":
        return False
    names = {name.removeprefix(_PARALLEL) for name in read_state_dict(path)}
    return {_STEM, *_HEADS} <= names


def read_retinaface(path: Path, size_hw: tuple[int, int] | None = None) -> PublicDetector:
    """Read the public RetinaFace.

    Args:
        path: A file for which ``is_retinaface`` is true.
        size_hw: Input size in pixels of letterboxed images; None takes that of its training.

    Raises:
        WeightsError: A tensor is missing, left over or of another shape.
    """
    source = PublicRetinaFace(path)
    plan = source.plan()
    network = cast(RetinaFace, plan.build())
    source.fill(network)
    metadata = {
        "kind": "RetinaFace of Pytorch_Retinaface",
        "imported": "backbone, pyramid, context modules, class, box and landmark predictors",
        "folded": False,
        "notes": ["The order of the colors is turned from BGR to RGB."],
    }
    return PublicDetector(plan, network.eval(), dict(FACE), size_hw or SIZE_HW, metadata)


class PublicRetinaFace:
    """A state dict of the public RetinaFace on MobileNet, and the ``RetinaFace`` made of it.

    Args:
        path: A file for which ``is_retinaface`` is true; names may begin with ``module.``.

    Raises:
        WeightsError: No such file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        state = read_state_dict(path)
        self.tensors = FileTensors(
            path,
            {
                name.removeprefix(_PARALLEL): tensor
                for name, tensor in state.items()
                if not name.endswith("num_batches_tracked")
            },
        )
        self.width_mult = self.tensors.shape(_STEM)[0] / 32

    def plan(self) -> Plan:
        """Return class and arguments of the network."""
        channels = self.tensors.shape(_HEADS[0])[1]
        backbone = {
            "width_mult": self.width_mult,
            "out_strides": list(STRIDES),
            "padding": "symmetric",
            "norm_eps": 1e-5,
            "norm_momentum": 0.1,
            "activation": "leaky_relu",
        }
        # The published code leaves out the slope where the maps are wider.
        activation = "leaky_relu" if channels <= 64 else "relu"
        arguments = {"channels": channels, "activation": activation}
        return Plan(RetinaFace, {"backbone": Plan(MobileNetV1, backbone), **arguments})

    @torch.no_grad()
    def fill(self, network: RetinaFace) -> None:
        """Fill a network made by ``plan``; once, as every tensor is used once.

        Raises:
            WeightsError: A tensor is missing, left over or of another shape.
        """
        pyramid = cast(ContextPyramid, network.backbone)
        for conv, norm, layer in _layers(pyramid):
            weight = self.tensors.take(f"{conv}.weight", layer.conv.weight.shape)
            # The file wants BGR.
            layer.conv.weight.copy_(weight.flip(1) if f"{conv}.weight" == _STEM else weight)
            names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            take_norm(layer.norm, self.tensors, (names[0], names[1], names[2], names[3]))
        for index, module in enumerate(network.predictors):
            predictor = cast(LandmarkPredictor, module)
            for name, conv2d in (
                ("ClassHead", predictor.classes),
                ("BboxHead", predictor.boxes),
                ("LandmarkHead", predictor.landmarks),
            ):
                for part in ("weight", "bias"):
                    parameter = cast(nn.Parameter, getattr(conv2d, part))
                    stored = f"{name}.{index}.conv1x1.{part}"
                    parameter.copy_(self.tensors.take(stored, parameter.shape))
        self.tensors.require_all_used()


def _layers(pyramid: ContextPyramid) -> Iterator[tuple[str, str, ConvNormAct]]:
    """Yield the file's names of convolution and normalization, and the layer."""
    body = cast(MobileNetV1, pyramid.body)
    yield "body.stage1.0.0", "body.stage1.0.1", body.stem
    scopes = [f"body.{stage}.{number}" for stage, numbers in _STAGE_BLOCKS for number in numbers]
    for scope, block in zip(scopes, body.blocks, strict=True):
        yield f"{scope}.0", f"{scope}.1", cast(ConvNormAct, block.depthwise)
        yield f"{scope}.3", f"{scope}.4", cast(ConvNormAct, block.pointwise)
    for name, layers in (("output", pyramid.lateral), ("merge", pyramid.merge)):
        for number, layer in enumerate(layers, start=1):
            scope = f"fpn.{name}{number}"
            yield f"{scope}.0", f"{scope}.1", cast(ConvNormAct, layer)
    for number, module in enumerate(pyramid.context, start=1):
        context = cast(ContextModule, module)
        for name, layer in (
            ("conv3X3", context.field3),
            ("conv5X5_1", context.shared),
            ("conv5X5_2", context.field5),
            ("conv7X7_2", context.field7[0]),
            ("conv7x7_3", context.field7[1]),
        ):
            scope = f"ssh{number}.{name}"
            yield f"{scope}.0", f"{scope}.1", cast(ConvNormAct, layer)
