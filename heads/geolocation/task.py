"""Training and measuring geolocation with Lightning."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pictures

from ...datasets.errors import DataError
from ...datasets.geo import PhotoBatch
from ...datasets.positions import CellTable
from ..evaluation import EvaluatedTask, dataset_name
from ..task import MakeOptimizer, MakeSchedule
from .cells import Partition
from .decoding import Answer, Decoder, Places, cell_probabilities
from .geodesy import unit_vectors
from .losses import CellLoss
from .metrics import GeolocationEvaluator, GeolocationResult, format_table, write_metrics

PREDICTIONS_FILE = "predictions.csv"
CROP = "crop_fraction"
"""What a checkpoint calls the central part of a picture that evaluation looks at, see
``CentreCrop``; None is the whole picture, stretched."""
_CELLS = "cells"


class GeolocationTask(EvaluatedTask[GeolocationEvaluator, GeolocationResult]):
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

    # --- evaluation

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

    metrics_file = "geo_metrics.json"
    headline = "median_km"

    def make_evaluator(self, dataset: Any) -> GeolocationEvaluator:
        """Return what gathers answers by photo."""
        fine = self.partitions[-1]
        return GeolocationEvaluator(fine.table.tokens, fine.latlng_deg, dataset_name(dataset))

    def predict_step(self, batch: PhotoBatch, batch_idx: int) -> Places:  # noqa: ARG002
        """Return the answers for a batch, without the whole pictures where crops are asked for."""
        return self.collect(self(batch.images) if self.five_crop_hw is None else (), batch)

    def collect(self, output: tuple[Tensor, ...], batch: PhotoBatch) -> Places:
        """Return the answers for a batch."""
        whole = self.five_crop_hw is None
        probabilities = self._combined(output) if whole else self._crops(batch.images)
        places = self.decoder(probabilities.float().cpu().numpy())
        truth = batch.latlng_deg.cpu().double().numpy()
        self.evaluator.update(batch.ids.cpu().numpy(), truth, places, batch.paths)
        return places

    def measure(self, stage: str) -> GeolocationResult:  # noqa: ARG002
        """Return the distances."""
        return self.evaluator.compute()

    def numbers(self, result: GeolocationResult) -> dict[str, float]:
        """Return the share within each distance and the median error."""
        within = {f"within_{km}_km": share for km, share in result.within_km.items()}
        return within | {"median_km": result.median_km}

    def table(self, result: GeolocationResult) -> str:
        """Return the distances as text."""
        return format_table(result)

    def write_metrics(self, path: Path, result: GeolocationResult) -> None:
        """Write the measures as JSON."""
        write_metrics(path, result)

    def write_predictions(self) -> None:
        """Write ``predictions.csv``."""
        self.write_answers(PREDICTIONS_FILE, "Predictions", self.evaluator.to_csv())


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
