"""Blending the pictures of a training batch: mixup and CutMix, by torchvision."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2


class BatchMix:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), each with its share of the batches.

    What is drawn depends on the seed that is handed in alone, so a resumed run repeats it.

    Args:
        mixup_alpha: Parameter of mixup's Beta distribution; 0 is no mixup.
        cutmix_alpha: The same for CutMix; 0 is no CutMix.
        p: Chance that a batch is blended at all; mixup and CutMix share it equally.

    Raises:
        ValueError: An option is out of its range, or both are 0.
    """

    def __init__(self, mixup_alpha: float = 0.2, cutmix_alpha: float = 0.0, p: float = 1.0) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
            raise ValueError(
                f"mixup_alpha={mixup_alpha} and cutmix_alpha={cutmix_alpha} must be at least 0, "
                "and one of them more"
            )
        if not 0 <= p <= 1:
            raise ValueError(f"p={p} must be in [0, 1]")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.p = p

    def __call__(
        self, images: Tensor, labels: Tensor, num_classes: int, seed: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Blend a batch, or leave it.

        Args:
            images: (B, 3, H, W) uint8.
            labels: (B,) int64.
            num_classes: Columns of the labels that come out.
            seed: Numbers, at least 0, that say which draw this is, such as step and process.

        Returns:
            Pictures (B, 3, H, W), uint8 or, blended, float32 in [0, 255], and labels: (B,) as
            they were, or (B, num_classes) float32, rows of which add up to 1.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return images, labels
        kinds = [
            (kind, alpha)
            for kind, alpha in ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha))
            if alpha > 0
        ]
        kind, alpha = kinds[rng.integers(len(kinds))]
        # torchvision draws from torch's global generator, on the CPU.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            return kind(alpha=alpha, num_classes=num_classes)(images.float(), labels)
