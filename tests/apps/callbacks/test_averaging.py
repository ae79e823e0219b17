from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from mobilevision.apps.callbacks.averaging import RampedEMA


class Counter(LightningModule):
    """Its only weight is 1 after the first step, 2 after the second, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        return -self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("decay", [0.9998, 0.3])
def test_ramped_ema__by_hand(tmp_path: Path, decay: float) -> None:
    steps, model = 6, Counter()
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False,
        callbacks=[RampedEMA(decay=decay, ramp=10.0)], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.zeros(steps, 1)))
    average = 1.0  # the first update copies
    for updates in range(1, steps):
        now = min(decay, (1 + updates) / (10 + updates))
        average = now * average + (1 - now) * (updates + 1)
    assert model.weight.item() == pytest.approx(average, rel=1e-5)
