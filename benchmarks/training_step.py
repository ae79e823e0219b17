"""One training step of SSD-300 on MobileNet 1.0: plain against channels_last and bfloat16.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --batches [8] --rounds 5 --threads 1

A step is forward, loss, backward and SGD with momentum on random images with seven boxes each and
COCO's 80 classes; bfloat16 is torch's autocast, as Lightning's ``precision: bf16-mixed``. Every
variant trains a network of its own that starts from the same weights. The variants take turns, so
that a change of the machine's speed meets all alike; a ratio is the median of those of the rounds.
"""

import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor

from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.types import DetectionTarget
from mobilevision.heads.detection.ssd import SSD

SIZE = 300
CLASSES = 80
BOXES = 7


class Variant(NamedTuple):
    """The layout and precision of a training."""

    name: str
    channels_last: bool
    bfloat16: bool


VARIANTS = (
    Variant("fp32", channels_last=False, bfloat16=False),
    Variant("fp32 channels_last", channels_last=True, bfloat16=False),
    Variant("bf16", channels_last=False, bfloat16=True),
    Variant("bf16 channels_last", channels_last=True, bfloat16=True),
)


def compare(
    batches: tuple[int, ...] = (8, 16),
    rounds: int = 5,
    threads: int | None = None,
    width_mult: float = 1.0,
    size: int = SIZE,
) -> None:
    """Print the time of a step of each variant, and how much faster than plain fp32 it is.

    Args:
        batches: Images of a step.
        rounds: Timed steps of each variant, after one that is not timed.
        threads: Threads of torch; None leaves torch's choice.
        width_mult: Width multiplier of the network.
        size: Height and width of the images in pixels.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    print(f"SSD at {size} px on MobileNet {width_mult}, {CLASSES} classes, "
          f"{torch.get_num_threads()} thread(s), torch {torch.__version__}\n")  # fmt: skip
    print(f"{'variant':<20}{'batch':>6}{'ms a step':>12}{'images/s':>12}{'ratio':>8}{'loss':>9}")
    for batch in batches:
        trainers = [Trainer(variant, width_mult) for variant in VARIANTS]
        images, target = random_batch(batch, size)
        rows = [[trainer.step(images, target) for trainer in trainers] for _ in range(rounds + 1)]
        for index, variant in enumerate(VARIANTS):
            times = [row[index].seconds for row in rows[1:]]
            ratio = statistics.median(row[0].seconds / row[index].seconds for row in rows[1:])
            median = statistics.median(times)
            print(f"{variant.name:<20}{batch:>6}{median * 1e3:>12.0f}{batch / median:>12.1f}"
                  f"{ratio:>7.2f}x{rows[-1][index].loss:>9.3f}", flush=True)  # fmt: skip


class Step(NamedTuple):
    """The time and the loss of a step."""

    seconds: float
    loss: float


class Trainer:
    """A network in training.

    Args:
        variant: Layout and precision.
        width_mult: Width multiplier of its backbone.
    """

    def __init__(self, variant: Variant, width_mult: float) -> None:
        torch.manual_seed(0)
        self.variant = variant
        self.network = SSD(MobileNetV1(width_mult=width_mult), num_classes=CLASSES).train()
        if variant.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)

    def step(self, images: Tensor, target: DetectionTarget) -> Step:
        """Train on a batch once."""
        start = time.perf_counter()
        layout = torch.channels_last if self.variant.channels_last else torch.contiguous_format
        with torch.autocast("cpu", torch.bfloat16, enabled=self.variant.bfloat16):
            output = self.network(images.contiguous(memory_format=layout))
            loss = torch.stack(list(self.network.compute_losses(output, target).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return Step(time.perf_counter() - start, loss.item())


def random_batch(batch: int, size: int = SIZE) -> tuple[Tensor, DetectionTarget]:
    """Return images (B, 3, size, size) uint8 of noise, and boxes of a tenth to half the side."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), generator=generator).byte()
    sides = (torch.rand(batch, BOXES, 2, generator=generator) * 0.4 + 0.1) * size
    starts = torch.rand(batch, BOXES, 2, generator=generator) * (size - sides)
    return images, DetectionTarget(
        torch.cat([starts, starts + sides], dim=-1),
        torch.randint(0, CLASSES, (batch, BOXES), generator=generator),
        torch.zeros(batch, BOXES, dtype=torch.bool),
    )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
