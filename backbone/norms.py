"""Batch normalisation: given back to weights that had it folded in, or kept as it is.

Published inference files hold convolutions with a bias: normalisation is multiplied into the
weights. Evaluation needs no more, but training does: without sane statistics the first step in
training mode destroys the features. Calibration measures the statistics on pictures of the domain
that will be trained and chooses scale and shift so that evaluation stays exactly what it was.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that stays in evaluation mode, whatever its parents are put into.

    Made by ``freeze_norms``. Unlike torchvision's class of that name it is a ``BatchNorm2d`` with
    the same entries in the state dict, so that weights load, and layers fold, as without it.
    """

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)


def freeze_norms(module: nn.Module) -> int:
    """Keep statistics, scale and shift of every BatchNorm2d below ``module`` as they are.

    For batches too small to normalise by. The layers are replaced in place by ``FrozenBatchNorm2d``
    with the same values; weights that are loaded later are taken as usual.

    Returns:
        The number of layers.
    """
    count = 0
    for parent in list(module.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen.to(norm.weight.device).requires_grad_(False).eval())
                count += 1
    return count


@torch.no_grad()
def set_folded_bias(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """Make a normalisation layer add ``bias`` (C,) and nothing else, in evaluation mode."""
    norm.running_mean.zero_()  # type: ignore[union-attr]
    norm.running_var.fill_(1.0)  # type: ignore[union-attr]
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)
    norm.bias.copy_(bias)


@torch.no_grad()
def calibrate_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure what reaches each BatchNorm2d and re-express its scale and shift in those statistics.

    With m and v the mean and variance of a layer's input over all given pictures, the layer gets
    running_mean = m, running_var = v, weight = scale * sqrt(v + eps), bias = shift + scale * m,
    where ``scale * x + shift`` is what it computes now. Its output in evaluation mode does not
    change (up to rounding), whatever the pictures; its output in training mode becomes the same
    on batches of that kind of pictures.

    Args:
        network: The module to change in place; called with each batch in evaluation mode.
        batches: Network inputs; all of them are used. 32 pictures or more of the domain that
            will be trained.

    Returns:
        The number of pictures seen.

    Raises:
        ValueError: There was no batch.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    moments: dict[nn.Module, _Moments] = {norm: _Moments(norm.num_features) for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs: moments[norm].add(inputs[0]))
        for norm in norms
    ]
    was_training, pictures = network.training, 0
    network.eval()
    try:
        for batch in batches:
            network(batch)
            pictures += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    if pictures == 0:
        raise ValueError("calibration needs at least one batch of pictures")
    for norm in norms:
        _re_express(norm, *moments[norm].mean_and_variance())
    return pictures


def _re_express(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    running_mean, running_var = norm.running_mean, norm.running_var
    if running_mean is None or running_var is None:
        raise ValueError("calibration needs batch normalisation with running statistics")
    scale = norm.weight / torch.sqrt(running_var + norm.eps)
    shift = norm.bias - scale * running_mean
    norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
    norm.bias.copy_(shift + scale * mean)
    running_mean.copy_(mean)
    running_var.copy_(variance)


class _Moments:
    """Mean and variance for each channel over batches (B, C, H, W), summed in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.sum_of_squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        wide = features.double()
        self.count += features.numel() // features.shape[1]
        self.sum += wide.sum(dim=(0, 2, 3)).cpu()
        self.sum_of_squares += wide.square().sum(dim=(0, 2, 3)).cpu()

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        variance = (self.sum_of_squares / self.count - mean.square()).clamp_min(0.0)
        return mean.float(), variance.float()
