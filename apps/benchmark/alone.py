"""A network without resize, decoding and suppression, for its share of the machine's ceiling."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...backbone.cost import count_cost
from ..export.deployed import Deployable, DeployedNetwork


class AloneAnswers(nn.Module):
    """All tensors that a network says, as they are.

    Args:
        network: Pixels (B, 3, h, w) uint8 to tensors, nested in any way.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``."""
        return tuple(tensors_in(self.network(pixels)))


def alone(deployable: Deployable) -> Deployable:
    """The network of a deployable, which can be exported as that can; pictures of its own size.

    What does not depend on the pictures, such as anchors, is part of the answer, too.
    """
    network = bare_network(deployable.module.answers)
    size_hw = deployable.facts.size_hw
    module = DeployedNetwork(AloneAnswers(network), size_hw).eval()
    with torch.inference_mode():
        count = len(module(torch.zeros(1, *size_hw, 3, dtype=torch.uint8)))
    outputs = {f"output_{number}": "of the network" for number in range(count)}
    return Deployable(module, replace(deployable.facts, job="network", outputs=outputs))


def bare_network(answers: nn.Module) -> nn.Module:
    """The network of a job, pixels (B, 3, h, w) uint8 to whatever it says, out of ``Answers``."""
    places = dict(answers.named_modules())
    return next(places[name] for name in ("network", "task.network") if name in places)


def mult_adds_of(network: nn.Module, picture: Any) -> int:
    """Multiplications and additions, each pair counted once, for what the network takes."""
    with torch.inference_mode():
        return count_cost(network, picture).mult_adds


def tensors_in(answer: Any) -> Iterator[Tensor]:
    """The tensors of a nested answer, in order."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, dict):
        for part in answer.values():
            yield from tensors_in(part)
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from tensors_in(part)
