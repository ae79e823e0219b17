"""Learning-rate schedules that know how long the training is."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to ``final_fraction`` of the learning rate.

    Stepped once for each optimizer step (Loshchilov & Hutter 2017, SGDR, equation 5, one cycle).

    Args:
        optimizer: The optimizer; its learning rates are the peaks.
        total_steps: Optimiser steps of the whole training; the tasks fill it in.
        warmup_steps: Steps of the warm-up; at most a tenth of the training is taken.
        final_fraction: Share of the peak at the end.
        initial_fraction: Share of the peak from which the warm-up rises.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 1000,
        final_fraction: float = 0.0,
        initial_fraction: float = 0.0,
    ) -> None:
        self.total_steps = total_steps
        self.warmup_steps = max(1, min(warmup_steps, total_steps // 10))
        self.final_fraction = final_fraction
        self.initial_fraction = initial_fraction
        super().__init__(optimizer, self._factor)

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            risen = (step + 1) / self.warmup_steps
            return self.initial_fraction + (1 - self.initial_fraction) * risen
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return self.final_fraction + (1 - self.final_fraction) * cosine


class Staircase(LambdaLR):
    """A learning rate that is multiplied by ``factor`` at equal intervals.

    Inception's schedule, which MobileNet's classifiers were trained with: 0.94 every second epoch
    (Szegedy et al. 2016, Section 8), so 50 drops in 100 epochs.

    Args:
        optimizer: The optimizer; its learning rates are those of the start.
        total_steps: Optimiser steps of the whole training; the tasks fill it in.
        drops: Number of equal parts of the training, each but the first with a lower rate.
        factor: From one part to the next.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, drops: int = 50, factor: float = 0.94
    ) -> None:
        length = max(1, math.ceil(total_steps / drops))
        super().__init__(optimizer, lambda step: factor ** (step // length))


class Milestones(LambdaLR):
    """A learning rate that is multiplied by ``factor`` at each of some points of the training.

    Args:
        optimizer: The optimizer; its learning rates are those of the start.
        total_steps: Optimiser steps of the whole training; the tasks fill it in.
        at: Shares of the training, rising, in (0, 1).
        factor: From one part to the next.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        at: Sequence[float] = (0.76, 0.88),
        factor: float = 0.1,
    ) -> None:
        steps = [share * total_steps for share in at]
        super().__init__(optimizer, lambda step: factor ** sum(step >= each for each in steps))
