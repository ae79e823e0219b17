"""Training and measuring geolocation with Lightning."""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from ...datasets.errors import DataError
from ...datasets.geolocation.cells import Partition
from ...datasets.geolocation.coordinates import CellTable
from ...datasets.geolocation.geodesy import unit_vectors
from ...datasets.geolocation.module import PhotoBatch
from ..evaluation import EvaluatedTask, dataset_name
from .decoding import (
    Answer,
    Calibration,
    CalibrationPhotos,
    Decoder,
    Places,
    calibrate,
    cell_scores,
)
from .losses import CellLoss
from .metrics import GeolocationEvaluator, GeolocationResult, by_share, format_table

_CELLS = "cells"
_CALIBRATION = "calibration"
_ARRAYS = ("latlng_deg", "photos", "spread_km")


class GeolocationTask(EvaluatedTask[GeolocationEvaluator, GeolocationResult]):
    """Train, validate, test and predict with a classifier of cells, such as ``CellClassifier``.

    The cells come from the data module (``cell_tables``) and are kept in every checkpoint. Logs
    ``val/median_km``, ``val/within_1_km`` to ``val/within_2500_km``, and how much the radii hold
    (``val/coverage_50``, ``val/coverage_90``), likewise ``test/...``.
    Writes ``geo_metrics.json``, and after validate, test and predict ``predictions.csv``, into the
    run's directory. While training, each validation calibrates the probabilities and radii;
    checkpoints hold that (entry ``mobilevision``: ``calibration``), and every later evaluation uses
    it.

    Args:
        network: Images (B, 3, H, W) uint8 RGB to logits (B, C) of each partition.
        categories: Class index to S2 token of the last partition; the command line links it.
        loss: None is ``CellLoss()``.
        answer: See ``decoding.Answer``.
        five_crop_hw: In evaluation, average over the four corners and the center of this size; the
            images have to be larger (``data.eval_size_hw``). None takes images whole.
        **options: See ``ImageTask``.
    """

    kind = "a network of geolocation"
    keeps_crop = True

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: nn.Module | None = None,
        answer: Answer = "cell",
        five_crop_hw: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.categories = dict(categories)
        self.loss = loss or CellLoss()
        self.answer: Answer = answer
        self.five_crop_hw = five_crop_hw
        self._partitions: tuple[Partition, ...] = ()
        self._parents: list[Tensor] = []
        self._centers: list[Tensor] = []
        self._calibrating: CalibrationPhotos | None = None

    # --- the cells

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions, coarse before fine.

        Raises:
            DataError: Neither the data nor a checkpoint defined the cells.
        """
        if not self._partitions:
            raise DataError(
                "which cells are the classes? Give fit() a data module of photos, load a "
                "checkpoint, or call use_cells(tables)"
            )
        return self._partitions

    @property
    def class_names(self) -> list[str]:
        """The tokens of the cells of all partitions."""
        return [token for each in self._partitions for token in each.table.tokens]

    @property
    def decoder(self) -> Decoder:
        """The decoder from probabilities to places."""
        return Decoder(self.partitions[-1], self.answer, levels=self.calibration.levels)

    def use_cells(self, tables: tuple[CellTable, ...]) -> None:
        """Define the cells.

        Raises:
            DataError: They are not the network's classes, overlap, or are not coarse before fine.
        """
        partitions = tuple(Partition(table, f"partition {i}") for i, table in enumerate(tables))
        fine = partitions[-1]
        if list(self.categories.values()) != list(fine.table.tokens):
            raise DataError(
                f"the network is made for {len(self.categories):,} cells and given {len(fine):,} "
                "others: data and checkpoint differ. Use the cells that the model was trained with."
            )
        parents = [torch.from_numpy(fine.parents_in(coarse)) for coarse in partitions[:-1]]
        self._partitions, self._parents = partitions, parents
        self._centers = [
            torch.from_numpy(unit_vectors(each.latlng_deg)).float() for each in partitions
        ]
        self.metadata[_CELLS] = [_as_plain(table) for table in tables]

    @property
    def calibration(self) -> Calibration:
        """The calibration of probabilities and radii; neutral before the first validation."""
        return Calibration.from_plain(self.metadata.get(_CALIBRATION))

    def setup(self, stage: str) -> None:
        """Take the cells of the data, unless a checkpoint brought them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not self._partitions and data is not None:
            self.use_cells(data.cell_tables)
        super().setup(stage)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the metadata back, and the cells with them."""
        super().on_load_checkpoint(checkpoint)
        if _CELLS in self.metadata:
            self.use_cells(tuple(_from_plain(plain) for plain in self.metadata[_CELLS]))

    # --- training

    def losses(self, output: tuple[Tensor, ...], batch: PhotoBatch) -> dict[str, Tensor]:
        """Return the loss of each partition."""
        device = output[0].device
        latlng_deg = batch.latlng_deg.cpu().double().numpy()
        cells = [torch.from_numpy(each.assign(latlng_deg)).to(device) for each in self.partitions]
        photos = torch.from_numpy(unit_vectors(latlng_deg)).float().to(device)
        self._centers = [centers.to(device) for centers in self._centers]
        return self.loss(output, cells, photos, self._centers)

    # --- evaluation

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (B, C) of the last partition for images (B, 3, H, W) uint8.

        Images smaller than ``five_crop_hw`` are a DataError.
        """
        whole = self.five_crop_hw is None
        scores = self._scores(self(images)) if whole else self._crop_scores(images)
        return self._calibrated(scores)

    def _calibrated(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores / self.calibration.temperature, dim=1)

    def _scores(self, output: tuple[Tensor, ...]) -> Tensor:
        """Logarithms (B, C) of the probabilities before calibration."""
        _ = self.partitions
        return cell_scores(output, self._parents)

    def _crop_scores(self, images: Tensor) -> Tensor:
        height, width = cast(tuple[int, int], self.five_crop_hw)
        if height > images.shape[-2] or width > images.shape[-1]:
            raise DataError(
                f"five_crop_hw={height, width} of images of {tuple(images.shape[-2:])}: set "
                "data.eval_size_hw to a larger size, such as 256 for crops of 224"
            )
        crops = transforms.five_crop(images, [height, width])
        each = torch.stack([self._scores(self(crop)) for crop in crops])
        return torch.logsumexp(each, dim=0) - math.log(len(crops))

    metrics_file = "geo_metrics.json"
    headline = "median_km"
    table = staticmethod(format_table)

    def make_evaluator(self, dataset: Any) -> GeolocationEvaluator:
        """Return the evaluator of positions."""
        fine = self.partitions[-1]
        return GeolocationEvaluator(fine.table.tokens, fine.latlng_deg, dataset_name(dataset))

    def predict_step(self, batch: PhotoBatch, batch_idx: int) -> Places:  # noqa: ARG002
        """Return the places of a batch; five crops do not need the output of the whole images."""
        return self.collect(self(batch.images) if self.five_crop_hw is None else (), batch)

    def collect(self, output: tuple[Tensor, ...], batch: PhotoBatch) -> Places:
        """Return the places of a batch."""
        whole = self.five_crop_hw is None
        scores = self._scores(output) if whole else self._crop_scores(batch.images)
        places = self.decoder(self._calibrated(scores).cpu().numpy())
        truth, ids = batch.latlng_deg.cpu().double().numpy(), batch.ids.cpu().numpy()
        self.evaluator.update(ids, truth, places, batch.paths)
        if self._calibrating is not None:
            self._calibrating.update(ids, truth, scores.cpu().numpy())
        return places

    def on_validation_epoch_start(self) -> None:
        """Start with an empty evaluator, and keep scores while training."""
        super().on_validation_epoch_start()
        photos = len(cast(Any, self.trainer.val_dataloaders).dataset)
        training = self.is_fitting and not self.trainer.sanity_checking
        self._calibrating = CalibrationPhotos(photos) if training else None

    def measure(self, stage: str) -> GeolocationResult:  # noqa: ARG002
        """Return the distances; while training, calibrate on the same photos afterwards."""
        result = self.evaluator.compute()
        if self._calibrating is not None:
            truth_deg, scores = self._calibrating.gather()
            self._calibrating = None
            dataset, fine = self.evaluator.dataset, self.partitions[-1]
            found = calibrate(scores, truth_deg, fine, self.answer, dataset)
            if found is not None:
                self.metadata[_CALIBRATION] = found.calibration.to_plain()
                result = result._replace(
                    coverage=by_share(found.coverage),
                    median_radius_km=by_share(np.median(found.radii_km, axis=0).tolist()),
                    cross_fitted=True,
                )
        known = self.calibration if _CALIBRATION in self.metadata else None
        return result._replace(calibration=known)

    def numbers(self, result: GeolocationResult) -> dict[str, float]:
        """Return the share within each distance and each radius, and the median error."""
        within = {f"within_{km}_km": share for km, share in result.within_km.items()}
        coverage = {f"coverage_{name}": share for name, share in result.coverage.items()}
        return within | coverage | {"median_km": result.median_km}


def _as_plain(table: CellTable) -> dict[str, Any]:
    """Return a partition as data that ``torch.load`` reads with ``weights_only=True``."""
    arrays = {key: torch.from_numpy(getattr(table, key)) for key in _ARRAYS}
    return {"tokens": list(table.tokens), **arrays}


def _from_plain(plain: dict[str, Any]) -> CellTable:
    return CellTable(plain["tokens"], *(np.asarray(plain[key].cpu()) for key in _ARRAYS))
