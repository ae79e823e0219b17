"""Multiply-accumulates and parameters of a network, counted from the module itself.

The paper (Howard et al. 2017, Section 3.1) measures computation in mult-adds: one multiplication
and one addition each, of convolutions and fully connected layers alone. Equations 2 and 5 are what
is counted for a full and for a depthwise separable convolution. Normalization, activations,
pooling, and products of two activations as in attention count as nothing.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

FULLY_CONNECTED = "fully connected"
NORMALIZATION = "normalization"
OTHER = "other"


class LayerCost(NamedTuple):
    """One layer: a module that has parameters of its own."""

    name: str
    """Its path in the network, such as ``backbone.blocks.3.pointwise.conv``."""
    kind: str
    """``conv 1x1``, ``conv dw 3x3`` (depthwise) and so on by kernel (height x width), ``fully
    connected``, ``normalization``, or ``other``."""
    mult_adds: int
    """Over all calls of the forward pass, for all images of the input."""
    params: int
    """Weights and biases; those that an earlier layer already has are not counted again."""
    stride: int
    """Stride of a convolution along the height; 1 for other layers."""
    input_chw: tuple[int, ...]
    """Input of the last call without the batch; empty if the layer was not called."""
    weight_shape: tuple[int, ...]
    """Shape of the weight: out, in / groups, height, width for a convolution."""


class Cost(NamedTuple):
    """The cost of one forward pass of a network."""

    layers: tuple[LayerCost, ...]
    """In the order of registration."""

    @property
    def mult_adds(self) -> int:
        """Multiply-accumulates of the whole pass."""
        return sum(layer.mult_adds for layer in self.layers)

    @property
    def params(self) -> int:
        """All parameters, each counted once."""
        return sum(layer.params for layer in self.layers)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Return (mult-adds, parameters) of each kind of layer, the most mult-adds first."""
        mult_adds: Counter[str] = Counter()
        params: Counter[str] = Counter()
        for layer in self.layers:
            mult_adds[layer.kind] += layer.mult_adds
            params[layer.kind] += layer.params
        kinds = sorted(mult_adds, key=lambda kind: (-mult_adds[kind], -params[kind]))
        return {kind: (mult_adds[kind], params[kind]) for kind in kinds}


@torch.no_grad()
def count_cost(module: nn.Module, *inputs: Any) -> Cost:
    """Count the cost of ``module(*inputs)`` in evaluation mode, by a forward pass.

    A layer that is called twice counts twice in mult-adds and once in parameters. On the device
    "meta" nothing is calculated, and counting takes no time::

        with torch.device("meta"):
            cost = count_cost(ImageClassifier(MobileNetV1()), torch.empty(1, 3, 224, 224))

    A convolution counts its nominal kernel at every output, also where taps fall on padding.
    The mode, the statistics and the gradients of the module are left as they are.

    Returns:
        The cost of each layer with parameters. Mult-adds are counted for convolutions and fully
        connected layers, including subclasses; the other layers are ``normalization`` or ``other``.
    """
    calls: dict[nn.Module, tuple[int, tuple[int, ...]]] = {}

    def add(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        before, _ = calls.get(layer, (0, ()))
        calls[layer] = (before + _mult_adds(layer, args[0], output), tuple(args[0].shape[1:]))

    counted = [layer for layer in module.modules() if isinstance(layer, (_ConvNd, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in counted]
    try:
        with _evaluation(module):
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(tuple(_layers(module, calls)))


def _mult_adds(layer: nn.Module, input: Tensor, output: Tensor) -> int:  # noqa: A002 (PyTorch's)
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    assert isinstance(layer, _ConvNd)
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, _ConvTransposeNd):
        return input.numel() * taps * layer.out_channels // layer.groups
    return output.numel() * taps * layer.in_channels // layer.groups


def _layers(
    module: nn.Module, calls: dict[nn.Module, tuple[int, tuple[int, ...]]]
) -> Iterator[LayerCost]:
    seen: set[nn.Parameter] = set()
    for name, layer in module.named_modules():
        own = [each for each in layer.parameters(recurse=False) if each not in seen]
        seen.update(own)
        if not own and layer not in calls:
            continue
        mult_adds, input_chw = calls.get(layer, (0, ()))
        weight: Any = getattr(layer, "weight", None)
        yield LayerCost(
            name=name,
            kind=_kind(layer),
            mult_adds=mult_adds,
            params=sum(each.numel() for each in own),
            stride=layer.stride[0] if isinstance(layer, _ConvNd) else 1,
            input_chw=input_chw,
            weight_shape=tuple(weight.shape) if isinstance(weight, Tensor) else (),
        )


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, _ConvNd):
        depthwise = layer.groups == layer.in_channels > 1
        return f"conv {'dw ' if depthwise else ''}{'x'.join(map(str, layer.kernel_size))}"
    if isinstance(layer, nn.Linear):
        return FULLY_CONNECTED
    if isinstance(layer, (_NormBase, nn.GroupNorm, nn.LayerNorm)):
        return NORMALIZATION
    return OTHER


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each part has the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
