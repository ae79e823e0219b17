"""A Lightning callback that shows what the detector finds: pictures in the run's folder."""

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch import Tensor

from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ...datasets.types import DetectionBatch, Detections, DetectionTarget
from ..drawing.boxes import draw_detections
from ..drawing.picture_grid import fit_picture, make_grid


class _Shown(NamedTuple):
    """One picture of the grid, with boxes in its own pixels, on the CPU."""

    path: str
    image_id: int
    detections: Detections
    target: DetectionTarget


class DetectionPictures(Callback):
    """Draws detections and annotations on a few pictures after each evaluation.

    Training writes ``pictures/epoch_0003.png`` and ``pictures/latest.png`` into the run's folder,
    the other commands ``pictures/validate.png``, ``test.png`` and ``predict.png``; a
    TensorBoardLogger gets them too. They are the same pictures each time, spread over the first
    dataloader (of several processes: over the share of the first). Sanity checks and
    ``fast_dev_run`` draw nothing.

    The module's step must return Detections in pixels of the original pictures for a
    DetectionBatch, and have ``categories``, a dict of category id to name in the order of the class
    indices. Annotations come from the data set's ``ground_truth`` (COCO format), or, where it has
    none, from the batch, scaled back.
    """

    def __init__(
        self, num_images: int = 8, score_threshold: float = 0.3, every_n_epochs: int = 1
    ) -> None:
        """Set what is drawn and how often.

        Args:
            num_images: pictures in the grid, at least 1.
            score_threshold: detections below it are not drawn; in [0, 1].
            every_n_epochs: while training, draw after every n-th epoch; at least 1.

        Raises:
            ValueError: a value is out of its range.
        """
        if num_images < 1 or every_n_epochs < 1 or not 0 <= score_threshold <= 1:
            raise ValueError(
                "num_images and every_n_epochs must be at least 1 and score_threshold in [0, 1], "
                f"got {num_images}, {every_n_epochs} and {score_threshold}"
            )
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.every_n_epochs = every_n_epochs
        self._folder = Path()
        self._batch_size = 0
        self._shown: list[_Shown] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Ask for the run's folder, which all processes must do together."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is found on the chosen pictures of this batch."""
        self._keep(trainer, outputs, batch, batch_idx, dataloader_idx, trainer.num_val_batches)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is found on the chosen pictures of this batch."""
        self._keep(trainer, outputs, batch, batch_idx, dataloader_idx, trainer.num_test_batches)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is found on the chosen pictures of this batch."""
        self._keep(trainer, outputs, batch, batch_idx, dataloader_idx, trainer.num_predict_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the grid."""
        self._finish(trainer, pl_module, trainer.val_dataloaders)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the grid."""
        self._finish(trainer, pl_module, trainer.test_dataloaders)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the grid."""
        self._finish(trainer, pl_module, trainer.predict_dataloaders)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Say where the pictures are."""
        if trainer.is_global_zero and (self._folder / "latest.png").is_file():
            print(f"Pictures: {self._folder / 'latest.png'}", flush=True)

    def _is_due(self, trainer: Trainer) -> bool:
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        training = trainer.state.fn == TrainerFn.FITTING
        return not training or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _keep(
        self,
        trainer: Trainer,
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int,
        batches: list[int | float],
    ) -> None:
        if dataloader_idx > 0 or not self._is_due(trainer):
            return
        if not isinstance(outputs, Detections):
            raise TypeError(
                "DetectionPictures needs a step that returns Detections, this one returned "
                f"{type(outputs).__name__}. Remove the callback or return them."
            )
        if batch_idx == 0:
            self._shown = []
            self._batch_size = len(batch.paths)
        for row in self._chosen_rows(batch_idx, batches[0], len(batch.paths)):
            self._shown.append(_row_of(outputs, batch, row))

    def _chosen_rows(self, batch_idx: int, batches: float, rows: int) -> list[int]:
        """Rows of a batch to show, so that all lie evenly over the data."""
        if math.isinf(batches):  # an iterable data set that does not tell its length
            batches = self.num_images
        last = int(batches) * self._batch_size - 1
        positions = torch.linspace(0, last, min(self.num_images, last + 1)).round().int().tolist()
        chosen = (position - batch_idx * self._batch_size for position in positions)
        inside = {min(row, rows - 1) for row in chosen if 0 <= row < self._batch_size}
        return sorted(inside)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, loaders: Any) -> None:
        shown, self._shown = self._shown, []
        if not shown or not self._is_due(trainer):
            return
        categories: dict[int, str] = pl_module.categories  # type: ignore[assignment]
        data = getattr(loaders, "dataset", None)
        truth = getattr(data, "ground_truth", None)
        if truth is not None:
            shown = _with_ground_truth(shown, truth, list(categories))
        training = trainer.state.fn == TrainerFn.FITTING
        stage = f"epoch {trainer.current_epoch}" if training else TrainerFn(trainer.state.fn).value
        title = " · ".join(filter(None, (getattr(data, "name", ""), stage)))
        grid = self._draw(shown, list(categories.values()), title)
        self._write(grid, trainer, training)

    def _write(self, grid: np.ndarray, trainer: Trainer, training: bool) -> None:
        stage = TrainerFn(trainer.state.fn).value
        png = io.BytesIO()
        Image.fromarray(grid).save(png, "PNG")
        names = (f"epoch_{trainer.current_epoch:04}", "latest") if training else (stage,)
        for name in names:
            write_atomically(self._folder / f"{name}.png", png.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                step = trainer.global_step
                logger.experiment.add_image(f"pictures/{stage}", grid, step, dataformats="HWC")
        if not training:
            print(f"Pictures: {self._folder / names[0]}.png", flush=True)

    def _draw(self, shown: list[_Shown], names: list[str], title: str) -> np.ndarray:
        pictures = []
        for row in shown:
            picture, scale = fit_picture(ImageFile(row.path).read())
            found = row.detections._replace(boxes=row.detections.boxes * scale)
            truth = row.target._replace(boxes=row.target.boxes * scale)
            pictures.append(draw_detections(picture, found, names, self.score_threshold, truth))
        captions = [Path(row.path).name for row in shown]
        return make_grid(pictures, captions, title, self.score_threshold)


def _row_of(detections: Detections, batch: DetectionBatch, row: int) -> _Shown:
    """One picture of a batch; its annotations scaled from the network's input to the original."""
    size_hw = batch.sizes_hw[row].cpu()
    input_hw = torch.tensor(batch.images.shape[-2:])
    scale = (size_hw / input_hw)[[1, 0, 1, 0]]
    target = DetectionTarget(*(field[row].cpu() for field in batch.target))
    return _Shown(
        path=batch.paths[row],
        image_id=int(batch.image_ids[row]),
        detections=Detections(*(field[row].detach().cpu() for field in detections)),
        target=target._replace(boxes=target.boxes * scale),
    )


def _with_ground_truth(
    shown: list[_Shown], truth: dict[str, Any], category_ids: list[int]
) -> list[_Shown]:
    """Take the annotations from the data set: as they are in its file, nothing scaled."""
    index = {category: label for label, category in enumerate(category_ids)}
    rows: dict[int, list[dict[str, Any]]] = {row.image_id: [] for row in shown}
    for annotation in truth["annotations"]:
        if annotation["image_id"] in rows and annotation["category_id"] in index:
            rows[annotation["image_id"]].append(annotation)
    return [row._replace(target=_as_target(rows[row.image_id], index)) for row in shown]


def _as_target(annotations: list[dict[str, Any]], index: dict[int, int]) -> DetectionTarget:
    boxes: Tensor = torch.tensor([row["bbox"] for row in annotations]).reshape(-1, 4).float()
    return DetectionTarget(
        torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
        torch.tensor([index[row["category_id"]] for row in annotations], dtype=torch.int64),
        torch.tensor([bool(row.get("iscrowd", 0)) for row in annotations], dtype=torch.bool),
    )
