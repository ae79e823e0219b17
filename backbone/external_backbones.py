"""Feature extractors of torchvision and timm behind the ``Backbone`` protocol, and whole models.

For the comparison rows of the MobileNet paper and for teachers. Each extractor converts images in
[-1, 1] to the range of its own weights. Nothing is downloaded unless ``download`` is set.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import WeightsError
from .mobilenet import FeatureInfo
from .weights.formats import read_state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)

# torchvision's weights of these come from TensorFlow and want [-1, 1].
_FROM_TENSORFLOW = {"googlenet", "inception_v3"}
# Heads that only train the body; without them every parameter takes part in the forward pass.
_NO_SIDE_HEADS = {"aux_logits": False, "init_weights": False}


class PeerFeatures(nn.Module):
    """An external feature extractor with the pixel range and the protocol of this package.

    Args:
        extractor: Normalized images (B, 3, H, W) to maps, finest first, as a list, tuple or dict.
        pixel_mean: Subtracted from each color of pixels in [0, 1].
        pixel_std: Then divided by.
        probe_size_hw: Size of the image of zeros that the channels and strides of the maps are
            measured with. Where a network does not pad, a stride is the nearest power of two.

    Raises:
        ValueError: The maps are not finest first, each at a stride of its own.
    """

    def __init__(
        self,
        extractor: nn.Module,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        probe_size_hw: tuple[int, int] = (320, 320),
    ) -> None:
        super().__init__()
        self.extractor = extractor
        # (x + 1) / 2 is in [0, 1], so the whole is scale * x + shift.
        mean, std = torch.tensor(pixel_mean), torch.tensor(pixel_std)
        self.register_buffer("scale", (0.5 / std).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((0.5 - mean) / std).view(-1, 1, 1), persistent=False)
        self.feature_info = self._probe(probe_size_hw)
        if list(self.feature_info.strides) != sorted(set(self.feature_info.strides)):
            raise ValueError(
                f"maps must come finest first, one for each stride, got {self.feature_info}"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of images (B, 3, H, W) float, RGB in [-1, 1], finest first."""
        maps = self.extractor(images * self.get_buffer("scale") + self.get_buffer("shift"))
        return tuple(maps.values()) if isinstance(maps, dict) else tuple(maps)

    @torch.no_grad()
    def _probe(self, size_hw: tuple[int, int]) -> FeatureInfo:
        training = self.training
        device = next(self.extractor.parameters()).device
        self.to(device)
        maps = self.eval()(torch.zeros(1, 3, *size_hw, device=device))
        self.train(training)
        exponents = [round(math.log2(size_hw[0] / each.shape[-2])) for each in maps]
        return FeatureInfo(
            tuple(int(each.shape[1]) for each in maps), tuple(2**each for each in exponents)
        )


class TorchvisionFeatures(PeerFeatures):
    """Maps of any torchvision classifier, by the names of its nodes.

    Args:
        model: torchvision's name, such as ``resnet50``.
        nodes: Nodes of its graph, finest first, as listed by ``torchvision.models.
            feature_extraction.get_graph_node_names``; the default is for ResNets.
        weights: A file with the model's state dict (``.pth``), read without pickle; None leaves
            the weights random.
        download: Download torchvision's own weights, checked by their hash.

    Raises:
        WeightsError: No such file, not a state dict, or not one of this model.
        ValueError: No such model or node, or both ``weights`` and ``download``.
    """

    def __init__(
        self,
        model: str,
        nodes: Sequence[str] = ("layer3", "layer4"),
        weights: str | Path | None = None,
        download: bool = False,
    ) -> None:
        from torchvision.models import get_model, get_model_weights
        from torchvision.models.feature_extraction import create_feature_extractor

        if weights is not None and download:
            raise ValueError("give either weights or download, not both")
        inception = model in _FROM_TENSORFLOW
        network = get_model(model, weights=None, **(_NO_SIDE_HEADS if inception else {}))
        if download:
            weights_of: Any = get_model_weights(model)
            state = weights_of.DEFAULT.get_state_dict(progress=True, check_hash=True)
            _load(network, _without_side_heads(state), f"torchvision's {model}")
        if weights is not None:
            _load(network, _without_side_heads(read_state_dict(Path(weights))), str(weights))
        super().__init__(
            create_feature_extractor(network, {node: node for node in nodes}),
            INCEPTION_MEAN if inception else IMAGENET_MEAN,
            INCEPTION_STD if inception else IMAGENET_STD,
        )


class TimmFeatures(PeerFeatures):
    """Maps of any timm model that gives features; needs the extra ``peers``.

    Mean and standard deviation of the pixels are those of timm's configuration of the model.

    Args:
        model: timm's name, such as ``resnet50.a1_in1k``; the part after the dot names the weights.
        out_strides: Strides of the maps, finest first.
        weights: A file with the model's state dict (``.safetensors``, or ``.pth`` and ``.bin``,
            read without pickle); None leaves the weights random. timm's own are on the Hugging
            Face hub.

    Raises:
        WeightsError: No such file, not a state dict, or not one of this model.
        ValueError: No such model, or it has no map at one of the strides.
    """

    def __init__(
        self, model: str, out_strides: Sequence[int] = (16, 32), weights: str | Path | None = None
    ) -> None:
        import timm

        if not timm.is_model(model):
            raise ValueError(f"timm has no model {model!r}")
        network: Any = timm.create_model(model, features_only=True)
        strides = network.feature_info.reduction()
        if not set(out_strides) <= set(strides):
            raise ValueError(f"{model} has maps at the strides {strides}, wanted: {out_strides}")
        indices = tuple(len(strides) - 1 - strides[::-1].index(each) for each in out_strides)
        extractor: Any = timm.create_model(model, features_only=True, out_indices=indices)
        if weights is not None:
            network = timm.create_model(model)
            _load(network, read_state_dict(Path(weights)), str(weights))
            _copy_by_name(extractor, network.state_dict())
        config = extractor.pretrained_cfg
        super().__init__(extractor, config["mean"], config["std"])


class VggSsdFeatures(PeerFeatures):
    """The six maps of SSD-300 on VGG-16 (Liu et al. 2016, Figure 2), as torchvision builds them.

    38x38x512, 19x19x1024, 10x10x512, 5x5x256, 3x3x256 and 1x1x256 at 300 px; strides 8 to 256.

    Args:
        weights: A file with the state dict of torchvision's ``vgg16``, as for
            ``TorchvisionFeatures``; None leaves it random.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        from torchvision.models import vgg16
        from torchvision.models.detection.ssd import _vgg_extractor

        network = vgg16(weights=None)
        if weights is not None:
            _load(network, read_state_dict(Path(weights)), str(weights))
        # torchvision's own weights of this detector want pixels in [0, 255] less the mean.
        super().__init__(
            _vgg_extractor(network, highres=False, trainable_layers=5),
            pixel_mean=(0.48235, 0.45882, 0.40784),
            pixel_std=(1 / 255, 1 / 255, 1 / 255),
            probe_size_hw=(300, 300),
        )


def _classifier(name: str, num_classes: int, **options: bool) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=num_classes, **options)


PEERS: dict[str, tuple[int, Callable[..., nn.Module]]] = {
    "AlexNet": (224, partial(_classifier, "alexnet")),
    "GoogLeNet": (224, partial(_classifier, "googlenet", **_NO_SIDE_HEADS)),
    "Inception V3": (299, partial(_classifier, "inception_v3", **_NO_SIDE_HEADS)),
    "ResNet-50": (224, partial(_classifier, "resnet50")),
    "SqueezeNet": (224, partial(_classifier, "squeezenet1_0")),
    "VGG-16": (224, partial(_classifier, "vgg16")),
}
"""Name in the paper's tables -> (input size in px, constructor that takes ``num_classes``)."""


def _without_side_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixes = ("AuxLogits.", "aux1.", "aux2.")
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _load(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{source}: these weights do not fit: {error}") from error


def _copy_by_name(extractor: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill a timm extractor; its names are the model's with "_" for some "." or below "model."."""
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    names = {name: name.removeprefix("model.").replace(".", "_") for name in extractor.state_dict()}
    own = {name: flat[original] for name, original in names.items()}
    extractor.load_state_dict(own, strict=True)
