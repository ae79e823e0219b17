"""Callbacks that draw after each evaluation: detections, precision and recall."""

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ...datasets.types import DetectionBatch, Detections, DetectionTarget
from ...heads.face_attributes.average_precision import Curve
from ...heads.face_attributes.metrics import AttributeFigures, AttributeResult, by_difficulty
from ...heads.face_attributes.task import AttributeTask
from ..drawing import draw_detections, fit_image, make_grid, write_figure


class RunCallback(Callback):
    """A callback that writes to the run's folder."""

    file_name: str
    """Name of what it writes in the run's folder."""

    def __init__(self) -> None:
        self._path = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Get the run's folder, which all processes have to do together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.file_name


def log_image(trainer: Trainer, name: str, image: Image.Image) -> None:
    """Give an RGB image to every logger that takes images: TensorBoard, Weights & Biases, MLflow.

    Call it on the first process alone.
    """
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(image), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(str(logger.run_id), image, key=name, step=step)


def log_figure(trainer: Trainer, name: str, figure: Figure, path: Path) -> None:
    """Write a figure as PNG, and give it to the loggers as ``log_image`` does."""
    write_figure(figure, path)
    with Image.open(path) as image:
        log_image(trainer, name, image.convert("RGB"))


class EvaluationPlot(RunCallback):
    """A callback that writes a figure to the run's folder after each validation and test.

    Loggers that take images get it, too. Sanity checks and ``fast_dev_run`` draw nothing.
    Subclasses draw the figure.
    """

    label: str
    """Name of the figure in the output."""

    def figure(self, trainer: Trainer, task: Any) -> Figure | None:
        """Return the figure of an ``EvaluatedTask``, None if there is nothing to draw."""
        raise NotImplementedError(f"{type(self).__name__} has to draw a figure")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the figure."""
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        figure = self.figure(trainer, pl_module)
        if figure is None:
            return
        stage = TrainerFn(trainer.state.fn)
        log_figure(trainer, f"{self._path.stem}/{stage.value}", figure, self._path)
        if stage != TrainerFn.FITTING:
            print(f"{self.label}: {self._path}", flush=True)

    on_test_end = on_validation_end


class _Shown(NamedTuple):
    """An image of the grid, with boxes in its own pixels, on the CPU."""

    path: str
    image_id: int
    detections: Detections
    target: DetectionTarget


class DetectionImages(RunCallback):
    """A callback that draws detections and annotations on a few images after each evaluation.

    Training writes ``pictures/epoch_0003.png`` and ``pictures/latest.png`` to the run's folder, the
    other commands ``pictures/validate.png``, ``test.png`` and ``predict.png``; loggers that take
    images get them, too. The same images are drawn each time, spread over the first dataloader
    (with several processes, over the share of the first). Sanity checks and ``fast_dev_run`` draw
    nothing.

    The module's step has to return Detections in pixels of the original images for a
    DetectionBatch, and the module needs ``categories``, a dict of category id to name in the order
    of the class indices. Annotations come from the dataset's ``ground_truth`` (COCO format), or, if
    it has none, from the batch, scaled back.

    Args:
        num_images: Number of images in the grid, at least 1.
        score_threshold: Minimum score of the detections that are drawn, in [0, 1].
        every_n_epochs: During training, draw after every n-th epoch; at least 1.
    """

    file_name = "pictures"

    def __init__(
        self, num_images: int = 8, score_threshold: float = 0.3, every_n_epochs: int = 1
    ) -> None:
        if num_images < 1 or every_n_epochs < 1 or not 0 <= score_threshold <= 1:
            raise ValueError(
                "num_images and every_n_epochs must be at least 1 and score_threshold in [0, 1], "
                f"got {num_images}, {every_n_epochs} and {score_threshold}"
            )
        super().__init__()
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.every_n_epochs = every_n_epochs
        self._batch_size = 0
        self._shown: list[_Shown] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the detections on the chosen images of this batch."""
        if dataloader_idx > 0 or not self._is_due(trainer):
            return
        if not isinstance(outputs, Detections):
            raise TypeError(
                "DetectionImages needs a step that returns Detections, but this one returned "
                f"{type(outputs).__name__}. Remove the callback or return them."
            )
        if batch_idx == 0:
            self._shown = []
            self._batch_size = len(batch.paths)
        (batches, *_) = getattr(trainer, f"num_{_stage_prefix(trainer)}_batches")
        for row in self._chosen_rows(batch_idx, batches, len(batch.paths)):
            self._shown.append(_row_of(outputs, batch, row))

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the grid."""
        shown, self._shown = self._shown, []
        if not shown or not self._is_due(trainer):
            return
        categories: dict[int, str] = pl_module.categories  # type: ignore[assignment]
        loaders = getattr(trainer, f"{_stage_prefix(trainer)}_dataloaders")
        data = getattr(loaders, "dataset", None)
        truth = getattr(data, "ground_truth", None)
        if truth is not None:
            shown = _with_ground_truth(shown, truth, list(categories))
        training = trainer.state.fn == TrainerFn.FITTING
        stage = f"epoch {trainer.current_epoch}" if training else TrainerFn(trainer.state.fn).value
        title = " · ".join(filter(None, (getattr(data, "name", ""), stage)))
        grid = self._draw(shown, list(categories.values()), title)
        self._write(grid, trainer, training)

    on_test_end = on_predict_end = on_validation_end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Print where the images are."""
        if trainer.is_global_zero and (self._path / "latest.png").is_file():
            print(f"Images: {self._path / 'latest.png'}", flush=True)

    def _is_due(self, trainer: Trainer) -> bool:
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        training = trainer.state.fn == TrainerFn.FITTING
        return not training or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _chosen_rows(self, batch_idx: int, batches: float, rows: int) -> list[int]:
        """Return the rows of a batch to draw, so that all lie evenly over the data."""
        if math.isinf(batches):  # an iterable dataset without a length
            batches = self.num_images
        last = int(batches) * self._batch_size - 1
        positions = torch.linspace(0, last, min(self.num_images, last + 1)).round().int().tolist()
        chosen = (position - batch_idx * self._batch_size for position in positions)
        inside = {min(row, rows - 1) for row in chosen if 0 <= row < self._batch_size}
        return sorted(inside)

    def _write(self, grid: np.ndarray, trainer: Trainer, training: bool) -> None:
        stage = TrainerFn(trainer.state.fn).value
        image, png = Image.fromarray(grid), io.BytesIO()
        image.save(png, "PNG")
        names = (f"epoch_{trainer.current_epoch:04}", "latest") if training else (stage,)
        for name in names:
            write_atomically(self._path / f"{name}.png", png.getvalue())
        log_image(trainer, f"pictures/{stage}", image)
        if not training:
            print(f"Images: {self._path / names[0]}.png", flush=True)

    def _draw(self, shown: list[_Shown], names: list[str], title: str) -> np.ndarray:
        images = []
        for row in shown:
            image, scale = fit_image(ImageFile(row.path).read())
            points = row.detections.landmarks
            found = row.detections._replace(
                boxes=row.detections.boxes * scale,
                landmarks=None if points is None else points * scale,
            )
            truth = row.target._replace(boxes=row.target.boxes * scale)
            images.append(draw_detections(image, found, names, self.score_threshold, truth))
        captions = [Path(row.path).name for row in shown]
        return make_grid(images, captions, title, self.score_threshold)


def _stage_prefix(trainer: Trainer) -> str:
    """Return "val", "test" or "predict", as in the names of the trainer's attributes."""
    stage = trainer.state.stage
    assert stage is not None
    return str(stage.dataloader_prefix)


def _row_of(detections: Detections, batch: DetectionBatch, row: int) -> _Shown:
    """Take an image from a batch, with its annotations scaled to the original image."""
    size_hw = batch.sizes_hw[row].cpu()
    input_hw = torch.tensor(batch.images.shape[-2:])
    scale = (size_hw / input_hw)[[1, 0, 1, 0]]
    target = batch.target._make(None if x is None else x[row].cpu() for x in batch.target)
    found = detections._make(None if x is None else x[row].detach().cpu() for x in detections)
    target = target._replace(boxes=target.boxes * scale)
    return _Shown(batch.paths[row], int(batch.image_ids[row]), found, target)


def _with_ground_truth(
    shown: list[_Shown], truth: dict[str, Any], category_ids: list[int]
) -> list[_Shown]:
    """Replace the annotations by the unscaled ones of the dataset's file."""
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


_LINE = "#1f5fa8"
_CHANCE = "#b0b0b0"
_POINT = "#d1495b"
_CELL_INCHES = (1.95, 1.85)


class AttributeImages(EvaluationPlot):
    """A callback that writes ``precision_recall.png`` to the run's folder after each evaluation.

    It has a small plot for each attribute, the hardest first: precision against recall, the share
    of positives (the precision of chance) as a gray line, the stored threshold as a dot. The task
    has to be an ``AttributeTask``.
    """

    file_name = "precision_recall.png"
    label = "Precision and recall"

    def figure(self, trainer: Trainer, task: AttributeTask) -> Figure | None:  # noqa: ARG002
        """Return the plots of the newest result."""
        result = task.attribute_result
        return None if result is None else draw_precision_recall(result)


def draw_precision_recall(result: AttributeResult) -> Figure:
    """Draw a result, without pyplot so that the user's plots are not affected."""
    rows = by_difficulty(result)
    columns = min(8, math.ceil(math.sqrt(len(rows) * 1.5)))
    lines = math.ceil(len(rows) / columns)
    size = (max(columns * _CELL_INCHES[0], 5.5), lines * _CELL_INCHES[1] + 0.8)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.axis("off")
    for axes, (name, row) in zip(grid.flat, rows, strict=False):
        _draw_curve(axes, name, row, result.curves.get(name))
    means = result.means
    named = [f"{result.dataset} · {means.images:,} images"]
    for what, value in (("mean AP", means.mean_ap), ("mean accuracy", means.mean_accuracy)):
        named += [] if value is None else [f"{what} {value:.3f}"]
    figure.suptitle(" · ".join(named), fontweight="bold", fontsize=11)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision   (gray: share of positives, dot: stored threshold)", fontsize=9)
    return figure


def _draw_curve(axes: Axes, name: str, row: AttributeFigures, points: Curve | None) -> None:
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(name.replace("_", " "), fontsize=8, pad=3)
    if points is None or row.average_precision is None:
        axes.text(0.5, 0.5, "no positives", ha="center", va="center", fontsize=8, color="#777777")
        return
    axes.axhline(row.positives / (row.positives + row.negatives), color=_CHANCE, linewidth=1)
    recall, precision = (np.append(part[0], part) for part in (points.recall, points.precision))
    recall[0] = 0.0
    axes.step(recall, precision, where="pre", color=_LINE, linewidth=1.3)
    if row.precision_at_threshold is not None and row.recall_at_threshold is not None:
        axes.plot(row.recall_at_threshold, row.precision_at_threshold, "o", color=_POINT,
                  markersize=4)  # fmt: skip
    low = row.average_precision > 0.5
    axes.text(0.04, 0.06 if low else 0.9, f"AP {row.average_precision:.2f}", fontsize=7.5)
