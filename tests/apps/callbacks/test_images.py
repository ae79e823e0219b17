"""The callback that draws: in a real Trainer, on real files, with a model that knows the answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobilevision.apps.callbacks import images as module
from mobilevision.apps.callbacks.images import DetectionImages
from mobilevision.datasets.types import DetectionBatch, Detections, stack_targets

SIZE_HW = (60, 80)


class Squares(Dataset[int]):
    """Files on disk, each with one box, in COCO format."""

    name = "squares"

    def __init__(self, folder: Path, count: int) -> None:
        self.paths = [str(folder / f"{index:02}.png") for index in range(count)]
        for index, path in enumerate(self.paths):
            Image.fromarray(np.full((*SIZE_HW, 3), 10 * index, np.uint8)).save(path)
        self.ground_truth: dict[str, Any] = {
            "annotations": [
                {"image_id": 100 + index, "category_id": 7, "bbox": [20, 30, 40, 20], "iscrowd": 0}
                for index in range(count)
            ]
        }

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: Sequence[int]) -> DetectionBatch:
        box = torch.tensor([[10.0, 30.0, 30.0, 50.0]])  # the same in an input of 60 x 40
        boxes = [box for _ in rows]
        labels, crowd = [torch.tensor([1])] * len(rows), [torch.tensor([False])] * len(rows)
        return DetectionBatch(
            torch.zeros(len(rows), 3, 60, 40, dtype=torch.uint8),
            stack_targets(boxes, labels, crowd),
            torch.tensor([100 + row for row in rows]),
            torch.tensor([SIZE_HW] * len(rows)),
            tuple(self.paths[row] for row in rows),
        )


class Oracle(LightningModule):
    """Finds the box of every image."""

    categories = {3: "circle", 7: "square"}  # noqa: RUF012

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.answer = answer

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.weight**2

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> Any:  # noqa: ARG002
        count = len(batch.paths)
        found = Detections(
            torch.tensor([[[20.0, 30.0, 60.0, 50.0], [0.0, 0.0, 0.0, 0.0]]]).expand(count, 2, 4),
            torch.tensor([[0.9, 0.0]]).expand(count, 2),
            torch.tensor([[1, -1]]).expand(count, 2),
        )
        return found if self.answer is None else self.answer

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def loader(tmp_path: Path) -> DataLoader[Any]:
    data = Squares(tmp_path, 11)
    return DataLoader(data, batch_size=2, collate_fn=data.collate)


def trainer(folder: Path, callback: DetectionImages, **options: Any) -> Trainer:
    given = {"logger": CSVLogger(folder), "max_epochs": 1, "limit_train_batches": 1, **options}
    return Trainer(
        accelerator="cpu",
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **given,
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("pictures/*"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Any, Any]]:
    """What is handed to make_grid and draw_detections: captions, detections, truth."""
    calls: list[tuple[list[str], Any, Any]] = []
    boxes: list[Any] = []
    draw, grid = module.draw_detections, module.make_grid

    def spy_draw(image: Any, found: Any, names: Any, threshold: Any, truth: Any) -> Any:
        boxes.append((found, truth, image.shape, names))
        return draw(image, found, names, threshold, truth)

    def spy_grid(images: Any, captions: Any, title: Any, threshold: Any) -> Any:
        calls.append((list(captions), list(boxes), title))
        boxes.clear()
        return grid(images, captions, title, threshold)

    monkeypatch.setattr(module, "draw_detections", spy_draw)
    monkeypatch.setattr(module, "make_grid", spy_grid)
    return calls


def test_images__fit_writes_every_nth_epoch_and_says_where(
    tmp_path: Path, loader: DataLoader[Any], drawn: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    callback = DetectionImages(num_images=4, every_n_epochs=2)
    trainer(tmp_path, callback, max_epochs=5).fit(Oracle(), loader, loader)
    folder = tmp_path / "lightning_logs" / "version_0" / "pictures"

    assert files(tmp_path) == ["epoch_0001.png", "epoch_0003.png", "latest.png"]
    assert (folder / "latest.png").read_bytes() == (folder / "epoch_0003.png").read_bytes()
    assert np.array(Image.open(folder / "latest.png")).shape[2] == 3
    assert f"Images: {folder / 'latest.png'}\n" in capsys.readouterr().out
    assert [title for _, _, title in drawn] == ["squares · epoch 1", "squares · epoch 3"]


def test_images__are_the_same_each_time_and_spread_over_the_set(
    tmp_path: Path, loader: DataLoader[Any], drawn: list[Any]
) -> None:
    trainer(tmp_path, DetectionImages(num_images=4), max_epochs=2).fit(Oracle(), loader, loader)

    assert drawn[0][0] == drawn[1][0] == ["00.png", "04.png", "07.png", "10.png"]


@pytest.mark.parametrize(("num_images", "shown"), [(1, 1), (8, 8), (50, 11)])
def test_images__number_of_images(
    tmp_path: Path, loader: DataLoader[Any], drawn: list[Any], num_images: int, shown: int
) -> None:
    trainer(tmp_path, DetectionImages(num_images)).validate(Oracle(), loader, verbose=False)

    assert len(set(drawn[0][0])) == len(drawn[0][0]) == shown


@pytest.mark.parametrize("with_ground_truth", [True, False])
def test_images__boxes_are_scaled_to_the_drawn_image(
    tmp_path: Path, loader: DataLoader[Any], drawn: list[Any], with_ground_truth: bool
) -> None:
    """80 x 60 pixels are drawn at six times their size; the network saw them at 40 x 60."""
    if not with_ground_truth:
        del loader.dataset.ground_truth  # type: ignore[attr-defined]
    trainer(tmp_path, DetectionImages(2)).validate(Oracle(), loader, verbose=False)
    found, truth, shape, names = drawn[0][1][0]

    assert shape == (360, 480, 3)
    assert found.boxes[0].tolist() == [120, 180, 360, 300]
    assert truth.boxes.tolist() == [[120, 180, 360, 300]]
    assert truth.labels.tolist() == [1]
    assert names == ["circle", "square"]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_images__other_commands_have_their_own_file(
    tmp_path: Path, loader: DataLoader[Any], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    getattr(trainer(tmp_path, DetectionImages(3)), command)(Oracle(), loader)

    assert files(tmp_path) == [f"{command}.png"]
    assert f"pictures/{command}.png\n" in capsys.readouterr().out


def test_images__sanity_check_and_fast_dev_run_draw_nothing(
    tmp_path: Path, loader: DataLoader[Any], drawn: list[Any]
) -> None:
    options = {"max_epochs": 0, "num_sanity_val_steps": 2}
    trainer(tmp_path, DetectionImages(), **options).fit(Oracle(), loader, loader)
    trainer(tmp_path, DetectionImages(), fast_dev_run=True).fit(Oracle(), loader, loader)

    assert drawn == []
    assert files(tmp_path) == []


def test_images__tensorboard_gets_them_too(tmp_path: Path, loader: DataLoader[Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    trainer(tmp_path, DetectionImages(2), logger=logger).fit(Oracle(), loader, loader)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()

    assert events.Tags()["images"] == ["pictures/fit"]
    assert (Path(logger.log_dir) / "pictures" / "epoch_0000.png").is_file()


def test_images__step_without_detections_is_named(tmp_path: Path, loader: DataLoader[Any]) -> None:
    with pytest.raises(TypeError, match=r"needs a step that returns Detections.*returned Tensor"):
        trainer(tmp_path, DetectionImages()).validate(Oracle(torch.zeros(1)), loader)


@pytest.mark.parametrize(
    "options", [{"num_images": 0}, {"every_n_epochs": 0}, {"score_threshold": 1.5}]
)
def test_images__option_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1 and score_threshold in \[0, 1\]"):
        DetectionImages(**options)
