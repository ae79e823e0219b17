"""Embeddings and attributes of face crops: one network for both against two, in one run.

    python benchmarks/face.py
    python benchmarks/face.py --threads 2 --rounds 20

Each network is a MobileNet 1.0 at 160 x 128 px as its Python API runs it: batch normalization
folded into the convolutions, channels_last, uint8 pixels normalized inside, arrays handed back. Two
networks means those of `FaceEmbedder` and `FaceAttributes`, one after the other on the same crops,
which favors them: in use each cuts out crops of its own. All are in float32, with random weights.

The sides take turns, the two networks first; a ratio is the median over the rounds of their time by
that of the one in the same round. The heads have the same weights on both sides, and so do the
backbones, so that both sides have to say the same; that is checked. Mult-adds and parameters are
counted from the networks.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mobilevision.apps import FaceAnalyzer, FaceAttributes, FaceEmbedder
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.cost import count_cost
from mobilevision.heads.face_attributes import AttributeNetwork
from mobilevision.heads.face_embedding import FaceNetwork
from mobilevision.heads.faces import FacesNetwork

SIZE_HW, DIMENSION, ATTRIBUTES = (160, 128), 128, 40
TWO, ONE = "two networks", "one network"
LARGEST_DIFFERENCE = 1e-4

Side = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def compare(
    batch_sizes: tuple[int, ...] = (1, 8, 32),
    rounds: int = 10,
    threads: int = 1,
    size_hw: tuple[int, int] = SIZE_HW,
    width_mult: float = 1.0,
) -> dict[int, float]:
    """Print the crops a second of both sides, and how many times as fast one network is.

    Args:
        batch_sizes: Crops at once.
        rounds: Runs of each side; the medians are shown.
        threads: Threads of torch.
        size_hw: Height and width of the crops in px.
        width_mult: Of MobileNet.

    Returns:
        The ratios by batch size.
    """
    torch.set_num_threads(threads)
    networks = make_networks(width_mult, size_hw)
    print(f"{size_hw[0]} x {size_hw[1]} px, float32, eager, {threads} thread(s)\n")
    print(f"{'':<14}{'mult-adds':>11}{'parameters':>12}")
    for name, own in ((TWO, networks[1:]), (ONE, networks[:1])):
        costs = [count_cost(each, torch.zeros(1, 3, *size_hw)) for each in own]
        mult_adds, params = (sum(column) for column in zip(
            *((cost.mult_adds, cost.params) for cost in costs), strict=True))  # fmt: skip
        print(f"{name:<14}{mult_adds / 1e6:>9.1f} M{params / 1e6:>10.2f} M")
    sides = make_sides(networks, size_hw)
    ratios = {}
    print(f"\n{'':<14}{'batch':>7}{'crops/s':>10}{'ratio':>8}")
    for batch_size in batch_sizes:
        crops = np.random.default_rng(0).integers(0, 256, (batch_size, *size_hw, 3), np.uint8)
        times = take_turns(sides, crops, rounds)
        for name, own in times.items():
            pairs = zip(times[TWO], own, strict=True)
            ratios[batch_size] = statistics.median(theirs / mine for theirs, mine in pairs)
            rate = batch_size / statistics.median(own)
            print(f"{name:<14}{batch_size:>7}{rate:>10.1f}{ratios[batch_size]:>7.2f}x", flush=True)
    return ratios


def make_networks(
    width_mult: float, size_hw: tuple[int, int]
) -> tuple[FacesNetwork, FaceNetwork, AttributeNetwork]:
    """The network of both jobs, and one for each that says the same, in evaluation mode."""
    torch.manual_seed(0)
    both = FacesNetwork(MobileNetV1(width_mult, out_strides=(32,)), ATTRIBUTES, DIMENSION)
    settle(both, size_hw)
    embed = FaceNetwork(MobileNetV1(width_mult, out_strides=(32,)), DIMENSION)
    describe = AttributeNetwork(MobileNetV1(width_mult, out_strides=(32,)), ATTRIBUTES)
    for network, head in ((embed, both.embedding), (describe, both.attributes)):
        network.backbone.load_state_dict(both.backbone.state_dict())
        network.head.load_state_dict(head.state_dict())
    return both, embed.eval(), describe.eval()


def make_sides(
    networks: tuple[FacesNetwork, FaceNetwork, AttributeNetwork], size_hw: tuple[int, int]
) -> dict[str, Side]:
    """The two ways from crops (B, height, width, 3) uint8 to both answers.

    Raises:
        ValueError: They do not say the same.
    """
    both, embed, describe = networks
    thresholds = {str(number): 0.5 for number in range(ATTRIBUTES)}
    analyze = FaceAnalyzer.from_network(both, thresholds, size_hw, device="cpu").runtime
    # A runtime takes what it is given: the side says only how large images are cut out.
    embedding = FaceEmbedder.from_network(embed, size_hw[0], device="cpu").runtime
    attributes = FaceAttributes.from_network(describe, thresholds, size_hw, "cpu").runtime

    def one(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = analyze(crops)
        return outputs["embeddings"], outputs["probabilities"]

    def two(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return embedding(crops)["embeddings"], attributes(crops)["probabilities"]

    crops = np.random.default_rng(1).integers(0, 256, (4, *size_hw, 3), np.uint8)
    difference = max(
        float(np.abs(a - b).max()) for a, b in zip(one(crops), two(crops), strict=True)
    )
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"one network and two differ by {difference:.2g}")
    return {TWO: two, ONE: one}


@torch.no_grad()
def settle(network: nn.Module, size_hw: tuple[int, int]) -> None:
    """Give normalization the statistics of a few images, as in a trained network.

    Signals fade through untrained layers, and answers about nothing would be equal anyway.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    network.train()
    network(torch.randint(0, 256, (4, 3, *size_hw), dtype=torch.uint8, generator=generator))
    network.eval()


def take_turns(sides: dict[str, Side], crops: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Run all in turn and return the seconds of each; two rounds before do not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side(crops)
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
