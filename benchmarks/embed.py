"""Aligned faces to embeddings: our student against facenet-pytorch's InceptionResnetV1, in one run.

    python benchmarks/embed.py
    python benchmarks/embed.py --threads 2 --rounds 20

The student is MobileNet 1.0 at 160 px, the first row of Table 14 of the MobileNet paper, as
`FaceEmbedder` runs it: batch normalization folded into the convolutions, channels_last, uint8
pixels normalized inside, embeddings handed back as an array. "plain" is the same network as it is
trained. The teacher is what the student is distilled from, also at 160 px, as its package has it:
eager, with pixels that are normalized already, whose making is not counted. All are in float32 with
random weights.

The sides take turns, the teacher first; a ratio is the median over the rounds of the teacher's time
by that of a student in the same round. That folding changes no embedding is checked.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mobilevision.apps import FaceEmbedder
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.face_embedding import FaceNetwork

SIZE, DIMENSION = 160, 512
TEACHER, PLAIN, OURS = "InceptionResnetV1", "MobileNet 1.0, plain", "MobileNet 1.0, as shipped"
LARGEST_DIFFERENCE = 1e-4


def compare(
    batch_sizes: tuple[int, ...] = (1, 32), rounds: int = 10, threads: int = 1, size: int = SIZE
) -> dict[tuple[str, int], float]:
    """Print the images a second of each side and their ratios to the teacher.

    Args:
        batch_sizes: Faces at once.
        rounds: Runs of each side; the medians are shown.
        threads: Threads of torch.
        size: Side of the faces in px.

    Returns:
        The ratios by side and batch size.
    """
    torch.set_num_threads(threads)
    print(f"{size} px, float32, eager, {threads} thread(s)\n")
    print(f"{'network':<28}{'batch':>7}{'images/s':>11}{'ratio':>8}")
    sides = make_sides(size)
    ratios = {}
    for batch_size in batch_sizes:
        faces = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), np.uint8)
        times = take_turns({name: prepare(faces) for name, prepare in sides.items()}, rounds)
        for name, own in times.items():
            pairs = zip(times[TEACHER], own, strict=True)
            ratios[name, batch_size] = statistics.median(theirs / mine for theirs, mine in pairs)
            rate = batch_size / statistics.median(own)
            print(f"{name:<28}{batch_size:>7}{rate:>11.1f}{ratios[name, batch_size]:>7.2f}x",
                  flush=True)  # fmt: skip
    return ratios


def make_sides(size: int) -> dict[str, Callable[[np.ndarray], Callable[[], object]]]:
    """For each side, what makes a function without arguments of faces (B, size, size, 3) uint8.

    Raises:
        ValueError: Folding changed the embeddings.
    """
    torch.manual_seed(0)
    student = FaceNetwork(MobileNetV1(), DIMENSION)
    settle(student, size)
    runtime = FaceEmbedder.from_network(student, size, device="cpu").runtime
    faces = np.random.default_rng(1).integers(0, 256, (4, size, size, 3), np.uint8)
    difference = np.abs(runtime(faces)["embeddings"] - run(student, as_tensor(faces)).numpy()).max()
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"folding changed embeddings by {difference:.2g}")
    theirs = teacher()
    return {
        TEACHER: lambda faces: bound(theirs, (as_tensor(faces).float() - 127.5) / 128),
        PLAIN: lambda faces: bound(student, as_tensor(faces)),
        OURS: lambda faces: lambda: runtime(faces),
    }


def teacher() -> nn.Module:
    """facenet-pytorch's network with random weights, in evaluation mode."""
    from facenet_pytorch import InceptionResnetV1

    return InceptionResnetV1(pretrained=None).eval()


def as_tensor(faces: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 as (B, 3, H, W), contiguous."""
    return torch.from_numpy(faces).permute(0, 3, 1, 2).contiguous()


def bound(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """The network on these images, as a function without arguments."""
    return lambda: run(network, images)


def run(network: nn.Module, images: Tensor) -> Tensor:
    """Embeddings without gradients."""
    with torch.inference_mode():
        return network(images)


@torch.no_grad()
def settle(network: nn.Module, size: int) -> None:
    """Give normalization the statistics of a few images, as in a trained network.

    Signals fade through untrained layers, and embeddings of nothing would be equal anyway.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    network.train()
    network(torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator))
    network.eval()


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run all in turn and return the seconds of each; two rounds before do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, side in runs.items():
            start = time.perf_counter()
            side()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
