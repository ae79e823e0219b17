"""Training and measuring geolocation with Lightning."""

from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pictures

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.geo import PhotoBatch
from ...datasets.positions import CellTable
from ..task import ImageTask, MakeOptimizer, MakeSchedule
from .cells import Partition
from .decoding import Answer, Decoder, Places, cell_probabilities
from .geodesy import unit_vectors
from .losses import CellLoss
from .metrics import GeolocationEvaluator, GeolocationResult, format_table, write_metrics

METRICS_FILE = "geo_metrics.json"
PREDICTIONS_FILE = "predictions.csv"
CROP = "crop_fraction"
"""What a checkpoint calls the central part of a picture that evaluation looks at, see
``CentreCrop``; None is the whole picture, stretched."""
_CELLS = "cells"


class GeolocationTask(ImageTask):
    """Train, validate, test and predict with a classifier of cells, such as ``CellClassifier``.

    The cells come from the data module (``cell_tables``) and are kept in every checkpoint. Logs
    ``val/median_km`` and ``val/within_1_km`` to ``val/within_2500_km``, likewise ``test/...``.
    Writes ``geo_metrics.json``, and after validate, test and predict ``predictions.csv``, into the
    run's directory.

    Args:
        network: Pictures (B, 3, H, W) uint8 RGB to logits (B, C) of each partition.
        categories: Class index to S2 token of the last partition; the command line links it.
        loss: What the positions teach; None is ``CellLoss()``.
        answer: See ``decoding.Answer``.
        five_crop_hw: In evaluation, average over the four corners and the centre of this size; the
            pictures have to be larger (``data.eval_size_hw``). None takes pictures whole.
        weights: As for ``ImageTask``, and so are the others.
        optimizer: Makes the optimiser.
        lr_scheduler: Makes the schedule.
        channels_last: Memory format of network and pictures.
        decay_depthwise: False leaves depthwise filters out of weight decay.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: nn.Module | None = None,
        answer: Answer = "cell",
        five_crop_hw: tuple[int, int] | None = None,
        weights: str | None = None,
        optimizer: MakeOptimizer | None = None,
        lr_scheduler: MakeSchedule | None = None,
        channels_last: bool = False,
        decay_depthwise: bool = True,
    ) -> None:
        super().__init__(network, weights, optimizer, lr_scheduler, channels_last, decay_depthwise)
        self.categories = dict(categories)
        self.loss = loss or CellLoss()
        self.answer: Answer = answer
        self.five_crop_hw = five_crop_hw
        self._partitions: tuple[Partition, ...] = ()
        self._parents: list[Tensor] = []
        self._centres: list[Tensor] = []
        self._decoder: Decoder | None = None
        self._evaluator: GeolocationEvaluator | None = None
        self._last_result: GeolocationResult | None = None

    @property
    def last_result(self) -> GeolocationResult | None:
        """What the newest evaluation measured; None before the first."""
        return self._last_result

    # --- the cells

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions, coarse before fine.

        Raises:
            DataError: Neither the data nor a checkpoint said what the cells are.
        """
        if not self._partitions:
            raise DataError(
                "which cells are the classes? Give fit() a data module of photos, load a "
                "checkpoint, or call use_cells(tables)"
            )
        return self._partitions

    @property
    def decoder(self) -> Decoder:
        """What makes places of probabilities."""
        _ = self.partitions
        assert self._decoder is not None
        return self._decoder

    def use_cells(self, tables: tuple[CellTable, ...]) -> None:
        """Say what the classes are.

        Raises:
            DataError: They are not those of the network's classes or not those of the checkpoint,
                overlap, or are not coarse before fine.
        """
        partitions = tuple(Partition(table, f"partition {i}") for i, table in enumerate(tables))
        fine = partitions[-1]
        if list(self.categories.values()) != list(fine.table.tokens):
            raise DataError(
                f"the model knows {len(self.categories):,} cells, the data has {len(fine):,} "
                "others. Use the cells that the model was trained with."
            )
        parents = [torch.from_numpy(fine.parents_in(coarse)) for coarse in partitions[:-1]]
        self._partitions, self._parents = partitions, parents
        self._centres = [
            torch.from_numpy(unit_vectors(each.latlng_deg)).float() for each in partitions
        ]
        self._decoder = Decoder(fine, self.answer)
        self.facts[_CELLS] = [_as_plain(table) for table in tables]

    def setup(self, stage: str) -> None:
        """Take the cells of the data, unless a checkpoint brought them."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if not self._partitions and data is not None:
            self.use_cells(data.cell_tables)
        if stage == "fit" and data is not None:
            self.facts[CROP] = getattr(data.val_transform, "fraction", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the facts back, and the cells with them."""
        super().on_load_checkpoint(checkpoint)
        if _CELLS in self.facts:
            self.use_cells(tuple(_from_plain(plain) for plain in self.facts[_CELLS]))

    # --- training

    def losses(self, output: tuple[Tensor, ...], batch: PhotoBatch) -> dict[str, Tensor]:
        """Return the loss of each partition.

        Args:
            output: For each partition the logits (B, C).
            batch: The photos with their positions.
        """
        device = output[0].device
        latlng_deg = batch.latlng_deg.cpu().double().numpy()
        cells = [torch.from_numpy(each.assign(latlng_deg)).to(device) for each in self.partitions]
        photos = torch.from_numpy(unit_vectors(latlng_deg)).float().to(device)
        self._centres = [centres.to(device) for centres in self._centres]
        return self.loss(output, cells, photos, self._centres)

    # --- evaluation, one path for validation, test and prediction

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (B, C) of the last partition for pictures (B, 3, H, W) uint8.

        Raises:
            DataError: ``five_crop_hw`` is larger than the pictures.
        """
        return self._combined(self(images)) if self.five_crop_hw is None else self._crops(images)

    def _combined(self, output: tuple[Tensor, ...]) -> Tensor:
        _ = self.partitions
        return cell_probabilities(output, self._parents)

    def _crops(self, images: Tensor) -> Tensor:
        height, width = cast(tuple[int, int], self.five_crop_hw)
        if height > images.shape[-2] or width > images.shape[-1]:
            raise DataError(
                f"five_crop_hw={height, width} of pictures of {tuple(images.shape[-2:])}: set "
                "data.eval_size_hw to a larger size, such as 256 for crops of 224"
            )
        crops = pictures.five_crop(images, [height, width])
        return torch.stack([self._combined(self(crop)) for crop in crops]).mean(dim=0)

    def on_validation_epoch_start(self) -> None:
        """Start with no answers."""
        self._start_evaluation(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Start with no answers."""
        self._start_evaluation(self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        """Start with no answers."""
        self._start_evaluation(self.trainer.predict_dataloaders)

    def validation_step(self, batch: PhotoBatch, batch_idx: int) -> Places:
        """Return the answers for a batch."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: PhotoBatch, batch_idx: int) -> Places:
        """Return the answers for a batch."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: PhotoBatch, batch_idx: int) -> Places:  # noqa: ARG002
        """Return the answers for a batch."""
        return self._locate(batch, self.probabilities(batch.images))

    def on_validation_epoch_end(self) -> None:
        """Measure and log; while training the table waits for the end."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Measure, log and print."""
        self._measure("test")

    def on_predict_epoch_end(self) -> None:
        """Write ``predictions.csv``."""
        self.evaluator.gather()
        self._write_predictions()

    def on_fit_end(self) -> None:
        """Print the table of the last validation."""
        if self._last_result is not None:
            self._print_result(self._last_result)

    @property
    def evaluator(self) -> GeolocationEvaluator:
        """What collects the answers of this evaluation."""
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    def _start_evaluation(self, loader: Any) -> None:
        name = getattr(loader.dataset, "name", type(loader.dataset).__name__)
        fine = self.partitions[-1]
        self._evaluator = GeolocationEvaluator(fine.table.tokens, fine.latlng_deg, name)

    def _evaluate(self, stage: str, batch: PhotoBatch, batch_idx: int) -> Places:
        output = self(batch.images)
        whole = self.five_crop_hw is None
        probabilities = self._combined(output) if whole else self._crops(batch.images)
        self.log_losses(stage, self.losses(output, batch), batch, batch_idx)
        return self._locate(batch, probabilities)

    def _locate(self, batch: PhotoBatch, probabilities: Tensor) -> Places:
        places = self.decoder(probabilities.float().cpu().numpy())
        truth = batch.latlng_deg.cpu().double().numpy()
        self.evaluator.update(batch.ids.cpu().numpy(), truth, places, batch.paths)
        return places

    def _measure(self, stage: str) -> None:
        result = self.evaluator.compute()
        numbers = {f"{stage}/within_{km}_km": share for km, share in result.within_km.items()}
        numbers[f"{stage}/median_km"] = result.median_km
        self.log_dict(numbers, sync_dist=True)  # the same on all processes: it only calms a warning
        self.log("median_km", result.median_km, prog_bar=True, logger=False)
        if self.trainer.sanity_checking:
            return
        self._last_result = result
        if self.trainer.is_global_zero:
            write_metrics(self.run_dir / METRICS_FILE, result)
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._write_predictions()
            self._print_result(result)

    @rank_zero_only
    def _print_result(self, result: GeolocationResult) -> None:
        print(f"\n{format_table(result)}Written to {self.run_dir / METRICS_FILE}", flush=True)

    @rank_zero_only
    def _write_predictions(self) -> None:
        path = self.run_dir / PREDICTIONS_FILE
        write_atomically(path, self.evaluator.to_csv().encode())
        print(f"Predictions: {path}", flush=True)


def _as_plain(table: CellTable) -> dict[str, Any]:
    """A partition as what ``torch.load`` reads with ``weights_only=True``."""
    return {
        "tokens": list(table.tokens),
        "latlng_deg": torch.from_numpy(table.latlng_deg),
        "photos": torch.from_numpy(table.photos),
        "spread_km": torch.from_numpy(table.spread_km),
    }


def _from_plain(plain: dict[str, Any]) -> CellTable:
    arrays = [np.asarray(plain[key].cpu()) for key in ("latlng_deg", "photos", "spread_km")]
    return CellTable(plain["tokens"], *arrays)
