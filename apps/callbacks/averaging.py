"""Averaged weights for short and long trainings."""

from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class RampedEMA(WeightAveraging):
    """An exponential moving average of weights and statistics with a rising decay.

    Updated after each optimizer step; validation and checkpoints use the average. After n updates
    the decay is min(decay, (1 + n) / (ramp + n)), the rule of TensorFlow's
    ExponentialMovingAverage: in a short training, the average covers about its last eighth; in a
    long one, the full decay is reached. Lightning's ``EMAWeightAveraging`` may be used instead,
    with a decay that is chosen for the length of the training.

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
