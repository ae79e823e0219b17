"""Embeddings and attributes of face crops: one network for both against two, in one run.

    python benchmarks/face.py
    python benchmarks/face.py --threads 2 --rounds 20

Each network is a MobileNet 1.0 at 160 x 128 px as its Python API runs it: batch normalization
folded into the convolutions, channels_last, uint8 pixels normalized inside, arrays handed back. Two
networks means those of `FaceEmbedder` and `FaceAttributes`, one after the other on the same crops,
which favors them: in use each cuts out crops of its own. All are in float32, with random weights.

The sides take turns; a ratio is the median over the rounds of the time of two networks by that of
one in the same round. Heads and backbones have the same weights on both sides; the script checks
that their outputs are the same. Mult-adds and parameters are counted from the networks.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from mobilevision.apps import FaceAnalyzer, FaceAttributes, FaceEmbedder
from mobilevision.apps.benchmark.peers import settle
from mobilevision.apps.benchmark.processes import time_in_turns
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
        rounds: Timed runs of each side, of which the medians are shown.
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
        times = time_in_turns({name: partial(run, crops) for name, run in sides.items()}, rounds)
        for name in sides:
            ratios[batch_size] = times.ratio(TWO, name)
            rate = batch_size / times.median(name)
            print(f"{name:<14}{batch_size:>7}{rate:>10.1f}{ratios[batch_size]:>7.2f}x", flush=True)
    return ratios


def make_networks(
    width_mult: float, size_hw: tuple[int, int]
) -> tuple[FacesNetwork, FaceNetwork, AttributeNetwork]:
    """Return the network of both jobs, and one for each with the same weights, for evaluation."""
    torch.manual_seed(0)
    both = FacesNetwork(MobileNetV1(width_mult, out_strides=(32,)), ATTRIBUTES, DIMENSION).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, *size_hw), dtype=torch.uint8, generator=generator)
    settle(both, lambda: both(images))
    embed = FaceNetwork(MobileNetV1(width_mult, out_strides=(32,)), DIMENSION)
    describe = AttributeNetwork(MobileNetV1(width_mult, out_strides=(32,)), ATTRIBUTES)
    for network, head in ((embed, both.embedding), (describe, both.attributes)):
        network.backbone.load_state_dict(both.backbone.state_dict())
        network.head.load_state_dict(head.state_dict())
    return both, embed.eval(), describe.eval()


def make_sides(
    networks: tuple[FacesNetwork, FaceNetwork, AttributeNetwork], size_hw: tuple[int, int]
) -> dict[str, Side]:
    """Return both sides, functions of crops (B, height, width, 3) uint8 to both outputs.

    Raises:
        ValueError: Their outputs differ.
    """
    both, embed, describe = networks
    thresholds = {str(number): 0.5 for number in range(ATTRIBUTES)}
    analyze = FaceAnalyzer.from_network(both, thresholds, size_hw, device="cpu").runtime
    # The runtime itself takes any size; the size given here is only that of crops from images.
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


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
