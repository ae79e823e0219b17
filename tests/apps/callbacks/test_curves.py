"""The callback that draws curves: what it takes, keeps over a resume, and writes."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mobilevision.apps.callbacks.plots import Curves, draw_curves


class Falling(LightningModule):
    """Logs as the detection task does; the losses are its global step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.stop_at = stop_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        if self.global_step == self.stop_at:
            raise RuntimeError("stopped on purpose")
        self.log("train/loss", float(self.global_step))
        self.log("train/loss_box", float(self.global_step) / 2)
        self.log("loss", 1.0, logger=False)
        return self.weight**2

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/loss", 3.0)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/AP": self.global_step / 100, "val/AP50": 0.5, "val/APs": -1.0})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader() -> DataLoader[Any]:
    return DataLoader(torch.zeros(4, 1), batch_size=1)  # type: ignore[arg-type]


def trainer(folder: Path, curves: Curves, epochs: int, **options: Any) -> Trainer:
    keep = ModelCheckpoint(folder / "checkpoints", save_last=True)
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(folder),
        callbacks=[curves, keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=2,
        **options,
    )


def test_curves__fit_takes_what_is_logged_and_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = Curves()
    trainer(tmp_path, curves, 2).fit(Falling(), loader(), loader())
    points = curves.state_dict()
    path = tmp_path / "lightning_logs" / "version_0" / "curves.png"

    assert points["train/loss"] == [[2, 1.0], [4, 3.0], [6, 5.0], [8, 7.0]]
    assert points["train/loss_box"] == [[2, 0.5], [4, 1.5], [6, 2.5], [8, 3.5]]
    assert points["val/AP"] == [[4, pytest.approx(0.04)], [8, pytest.approx(0.08)]]
    assert points["learning rate"][0] == [2, pytest.approx(0.1 / 3)]
    assert set(points) == {"train/loss", "train/loss_box", "val/loss", "val/AP", "val/AP50",
                           "learning rate"}  # fmt: skip
    assert np.array(Image.open(path)).std() > 5
    assert [file.name for file in path.parent.glob("*.tmp")] == []
    assert f"Curves: {path}\n" in capsys.readouterr().out


def test_curves__resumed_run_has_the_points_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Curves(), Curves(), Curves()
    trainer(tmp_path / "whole", whole, 3).fit(Falling(), loader(), loader())
    with pytest.raises(RuntimeError, match="stopped on purpose"):
        trainer(tmp_path / "cut", first, 3).fit(Falling(stop_at=7), loader(), loader())
    again = trainer(tmp_path / "cut", second, 3)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    again.fit(Falling(), loader(), loader(), ckpt_path=last, weights_only=True)

    assert second.state_dict() == whole.state_dict()
    assert first.state_dict() != whole.state_dict()


def test_curves__interrupted_run_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped on purpose"):
        trainer(tmp_path, Curves(), 3).fit(Falling(stop_at=5), loader(), loader())

    assert len(list(tmp_path.rglob("curves.png"))) == 1


def test_curves__validation_alone_and_fast_dev_run_write_nothing(tmp_path: Path) -> None:
    curves = Curves()
    trainer(tmp_path, curves, 1).validate(Falling(), loader(), verbose=False)
    trainer(tmp_path, Curves(), 1, fast_dev_run=True).fit(Falling(), loader(), loader())

    assert curves.state_dict() == {}
    assert list(tmp_path.rglob("curves.png")) == []


def lines(figure: Figure, panel: int) -> list[np.ndarray]:
    return [np.array(line.get_xydata()) for line in figure.axes[panel].lines]


def test_draw_curves__panels_hold_the_points() -> None:
    points = {
        "train/loss": [(1, 4.0), (2, 2.0)],
        "val/loss": [(2, 3.0)],
        "val/AP": [(1, -1.0), (2, 0.25)],
        "val/AP50": [(2, 0.5)],
        "learning rate": [(1, 0.1), (2, 0.05)],
    }
    figure = draw_curves(points, "version_7")

    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss", "validation", "learning rate",
    ]  # fmt: skip
    assert [line.tolist() for line in lines(figure, 0)] == [[[1, 4], [2, 2]]] * 2 + [[[2, 3]]]
    assert [line.tolist() for line in lines(figure, 1)] == [[[2, 0.25]], [[2, 0.5]]]
    assert lines(figure, 2)[0].tolist() == [[1, 0.1], [2, 0.05]]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "AP (last 0.250, best 0.250)"


def test_draw_curves__smoothed_line_is_steadier_and_keeps_the_mean() -> None:
    noise = np.random.default_rng(0).normal(5, 1, 1000)
    raw, smooth = lines(draw_curves({"train/loss": list(enumerate(noise.tolist()))}, ""), 0)

    assert raw[:, 1] == pytest.approx(noise)
    assert smooth[:, 1].std() < 0.4 * raw[:, 1].std()
    assert smooth[:, 1].mean() == pytest.approx(5, abs=0.1)
    assert smooth[0, 1] == pytest.approx(noise[:21].mean())


def test_draw_curves__absent_series_leave_their_panels_out() -> None:
    assert len(draw_curves({}, "nothing").axes) == 0
    only_rate = draw_curves({"learning rate": [(1, 0.1)]}, "rate")
    assert [axes.get_ylabel() for axes in only_rate.axes] == ["learning rate"]


def test_draw_curves__leaves_the_state_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    open_figures = pyplot.get_fignums()
    draw_curves({"learning rate": [(1, 0.1)]}, "rate")

    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == open_figures


def test_curves__long_run_is_thinned_evenly_and_keeps_its_ends() -> None:
    curves = Curves()
    for step in range(1, 12_001):
        curves._add(step, {"train/loss": step})
    steps = np.array([step for step, _ in curves.state_dict()["train/loss"]])

    assert len(steps) <= 5000
    assert (steps[0], steps[-1]) == (1, 12_000)
    assert np.diff(steps).max() <= 10
    assert (np.diff(steps) > 0).all()


def test_draw_curves__measures_of_other_jobs__have_their_panel() -> None:
    figure = draw_curves({"val/top1": [(1, 0.25), (2, 0.75)], "val/odd": [(1, 0.5)]}, "run")
    (panel,) = figure.axes
    assert panel.get_ylabel() == "validation"
    assert [line.get_label() for line in panel.get_lines()] == ["top1 (last 0.750, best 0.750)"]
