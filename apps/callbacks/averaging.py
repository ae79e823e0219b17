"""Averaged weights that fit short trainings and long ones."""

from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class RampedEMA(WeightAveraging):
    """An exponential moving average of weights and statistics whose decay rises from nothing.

    Updated after each optimizer step; validation and checkpoints take the average. After n updates
    the decay is min(decay, (1 + n) / (ramp + n)), the rule of TensorFlow's
    ExponentialMovingAverage: the average reaches back over about the last eighth of a short
    training, and the full decay comes in a long one. Lightning's ``EMAWeightAveraging`` fits here
    as well, with a decay that is chosen for the length of the training.

    Args:
        decay: The decay of a long training.
        ramp: The larger, the shorter the memory at the beginning.
    """

    def __init__(self, decay: float = 0.9998, ramp: float = 10.0) -> None:
        def average(averaged: Any, current: Any, updates: Tensor | int) -> None:
            count = int(updates)
            now = min(decay, (1 + count) / (ramp + count))
            get_ema_multi_avg_fn(now)(averaged, current, updates)

        super().__init__(use_buffers=True, multi_avg_fn=average)
