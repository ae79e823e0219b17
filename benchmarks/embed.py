"""Aligned faces to embeddings: our student against facenet-pytorch's InceptionResnetV1, in one run.

    python benchmarks/embed.py
    python benchmarks/embed.py --threads 2 --rounds 20

The student is MobileNet 1.0 at 160 px, the first row of Table 14 of the MobileNet paper, as
`FaceEmbedder` runs it: batch normalization folded into the convolutions, channels_last, uint8
pixels normalized inside, embeddings handed back as an array. "plain" is the same network as it is
trained. The teacher, from which the student is distilled, also runs at 160 px as its package
provides it: eager, with pixels that are normalized before the measurement. All are in float32 with
random weights.

The sides take turns; a ratio is the median over the rounds of the teacher's time by that of a
student in the same round. The script checks that folding does not change the embeddings.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mobilevision.apps import FaceEmbedder
from mobilevision.apps.benchmark.peers import settle
from mobilevision.apps.benchmark.processes import time_in_turns
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
        rounds: Timed runs of each side, of which the medians are shown.
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
        times = time_in_turns({name: prepare(faces) for name, prepare in sides.items()}, rounds)
        for name in sides:
            ratios[name, batch_size] = times.ratio(TEACHER, name)
            rate = batch_size / times.median(name)
            print(f"{name:<28}{batch_size:>7}{rate:>11.1f}{ratios[name, batch_size]:>7.2f}x",
                  flush=True)  # fmt: skip
    return ratios


def make_sides(size: int) -> dict[str, Callable[[np.ndarray], Callable[[], object]]]:
    """Return for each side a function that binds it to faces (B, size, size, 3) uint8.

    Raises:
        ValueError: Folding changed the embeddings.
    """
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    student = FaceNetwork(MobileNetV1(), DIMENSION).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator)
    settle(student, lambda: student(images))
    runtime = FaceEmbedder.from_network(student, size, device="cpu").runtime
    faces = np.random.default_rng(1).integers(0, 256, (4, size, size, 3), np.uint8)
    difference = np.abs(runtime(faces)["embeddings"] - run(student, as_tensor(faces)).numpy()).max()
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"folding changed embeddings by {difference:.2g}")
    teacher = InceptionResnetV1(pretrained=None).eval()
    return {
        TEACHER: lambda faces: partial(run, teacher, (as_tensor(faces).float() - 127.5) / 128),
        PLAIN: lambda faces: partial(run, student, as_tensor(faces)),
        OURS: lambda faces: partial(runtime, faces),
    }


def as_tensor(faces: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, H, W), contiguous."""
    return torch.from_numpy(faces).permute(0, 3, 1, 2).contiguous()


def run(network: nn.Module, images: Tensor) -> Tensor:
    """Return embeddings, without gradients."""
    with torch.inference_mode():
        return network(images)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
