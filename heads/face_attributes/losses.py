"""Losses of attributes that are present, absent or not known, and of landmarks. Pure.

A label loss is elementwise, and `masked_mean` leaves out unknown labels: an image without labels
may still be learned from a teacher. Options that are out of their range are ValueErrors.
"""

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...datasets.faces.labels import UNKNOWN

_SMOOTH = 0.01
"""Errors of landmarks below this share of the crop count quadratically."""


class LabelLoss(Protocol):
    """Compares logits and labels, element by element."""

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return (B, A) float32; the values for unknown labels are ignored.

        ``logits`` are (B, A) float, ``labels`` (B, A) int8, 1 yes, 0 no, -1 not known, and
        ``counts`` (A, 2) float the training images that lack and have each attribute, if
        known.
        """
        ...


class BinaryCrossEntropy:
    """The cross entropy of each attribute by itself.

    Args:
        smoothing: The target is ``1 - smoothing / 2`` in place of 1 and ``smoothing / 2`` in place
            of 0 (Szegedy et al. 2016, Section 7).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing} must be in [0, 1)")
        self.smoothing = smoothing

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
        """See ``LabelLoss``; ``counts`` are not used."""
        del counts
        target = (labels == 1).float() * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")


class FocalLoss:
    """The cross entropy with less weight on what is easy (Lin et al. 2017, equation 5).

    Args:
        gamma: The larger, the less easy examples count; 0 is the cross entropy.
        alpha: Weight of present attributes, ``1 - alpha`` that of absent ones; None weights both 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None) -> None:
        if gamma < 0 or not 0 < (0.5 if alpha is None else alpha) < 1:
            raise ValueError(f"gamma={gamma} must be at least 0, alpha={alpha} in (0, 1)")
        self.gamma = gamma
        self.alpha = alpha

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
        """See ``LabelLoss``; ``counts`` are not used."""
        del counts
        yes = labels == 1
        # The probability of what is wrong, from the logit, so that nothing is lost near 1.
        signed = torch.where(yes, logits, -logits).float()
        loss = torch.sigmoid(-signed) ** self.gamma * -F.logsigmoid(signed)
        if self.alpha is None:
            return loss
        return torch.where(yes, self.alpha, 1 - self.alpha) * loss


class ClassBalanced:
    """Another loss with more weight on the rarer class, yes or no, of each attribute.

    The weight of a class with n training images is ``(1 - beta) / (1 - beta^n)``, scaled so that
    both weights add up to 2 (Cui et al. 2019, "Class-Balanced Loss", equation 8).

    Args:
        loss: The loss to weight; None is the cross entropy.
        beta: 0 weights equally, towards 1 by the inverse of n.
    """

    def __init__(self, loss: LabelLoss | None = None, beta: float = 0.999) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} must be in [0, 1)")
        self.loss = loss or BinaryCrossEntropy()
        self.beta = beta

    def weights(self, counts: Tensor) -> Tensor:
        """Return the weights (A, 2) float32 of no and yes, from counts (A, 2)."""
        weights = (1 - self.beta) / (1 - self.beta ** counts.double().clamp_min(1))
        return (2 * weights / weights.sum(dim=1, keepdim=True)).float()

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
        """See ``LabelLoss``.

        Raises:
            ValueError: ``counts`` is None.
        """
        if counts is None:
            raise ValueError("ClassBalanced needs the counts of the training labels")
        no, yes = self.weights(counts).to(logits.device).unbind(dim=1)
        return torch.where(labels == 1, yes, no) * self.loss(logits, labels, counts)


def expected_loss(
    loss: LabelLoss, logits: Tensor, labels: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Return the loss (B, A) float32 of labels that may be blends: yes and no by the label.

    The labels (B, A) are int8 as for ``LabelLoss``, or float in [0, 1], -1 not known.
    """
    if not labels.is_floating_point():
        return loss(logits, labels, counts)
    yes = loss(logits, torch.ones_like(labels, dtype=torch.int8), counts)
    no = loss(logits, torch.zeros_like(labels, dtype=torch.int8), counts)
    return torch.lerp(no, yes, labels)


def masked_mean(losses: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of losses (B, A) where labels (B, A) are known; 0 where none is."""
    known = labels != UNKNOWN
    return losses.masked_fill(~known, 0.0).sum() / known.sum().clamp_min(1)


def landmark_loss(predicted: Tensor, landmarks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the mean smooth-L1 loss of the known landmarks, 0 where there are none.

    ``predicted`` (B, 5, 2) float are shares of the crop's width and height, ``landmarks`` (B,
    5, 2) float32 px of the crop, NaN where they are not known.
    """
    height, width = size_hw
    target = (landmarks + 0.5) / torch.tensor([width, height], device=landmarks.device)
    known = target.isfinite()
    losses = F.smooth_l1_loss(
        predicted.float(), target.masked_fill(~known, 0.0), reduction="none", beta=_SMOOTH
    )
    return losses.masked_fill(~known, 0.0).sum() / known.sum().clamp_min(1)
