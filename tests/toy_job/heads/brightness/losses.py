"""The loss: a pure function that returns a dict of scalars."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def brightness_losses(logits: Tensor, brightness: Tensor) -> dict[str, Tensor]:
    """Return the cross entropy of logits (B,) with brightness (B,) from 0 to 1."""
    return {"brightness": F.binary_cross_entropy_with_logits(logits, brightness)}
