"""Data modules for detection: what they share, and COCO-format data sets."""

import logging
import os
from pathlib import Path
from typing import Any, cast

import cv2
import torch
from lightning import LightningDataModule
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from .annotations import Annotations
from .coco import COCO_CATEGORIES, official_title
from .detection_dataset import DetectionDataset, Sample, collate
from .errors import DataError
from .faults import OnError
from .layout import Split, find_layout, read_split
from .mosaic import Mosaic
from .pictures import drop_missing, fit_to_pictures
from .sampling import EpochSampler, Progress, ResumableLoader
from .transforms import Resize, SSDAugment, Transform

__all__ = [
    "CocoDataModule",
    "DetectionDataModule",
    "DetectionDataset",
    "Sample",
    "Split",
    "collate",
]

# A child of Lightning's logger, whose messages are shown by default.
_log = logging.getLogger("lightning.pytorch.mobilevision.data")


class DetectionDataModule(LightningDataModule):
    """What the data modules for detection share; a subclass says what the splits are.

    Test and prediction take the test split, and the validation split where there is none.

    Args:
        root: folder of the data set.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        categories: id -> name of the classes, in class order; None takes those of the first split.
        batch_size: images of each process in a batch.
        num_workers: processes that read pictures; null takes one for each core, at most 4; 0 reads
            in the main process.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``SSDAugment(size_hw)``.
        val_transform: null is ``Resize(size_hw)``.
        mosaic: joins training pictures with three others, in place of ``train_transform``.
        seed: of order and augmentation, at least 0.
        on_error: "raise" stops at anything that is wrong with the data; "skip" leaves it out,
            counts it and reports the counts.
        pin_memory: page-locked batches; null where there is a CUDA device.
        multiprocessing_context: how workers start (fork, forkserver, spawn); null leaves it to
            Python.

    Attributes:
        train_sampler: the order of training, once `setup` has run.

    Raises:
        DataError: an option is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        splits: dict[str, Any],
        categories: dict[int, str] | None = None,
        *,
        batch_size: int = 24,
        num_workers: int | None = None,
        size_hw: tuple[int, int] = (300, 300),
        train_transform: Transform | None = None,
        val_transform: Transform | None = None,
        mosaic: Mosaic | None = None,
        seed: int = 0,
        on_error: OnError = "raise",
        pin_memory: bool | None = None,
        multiprocessing_context: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (num_workers or 0) < 0 or seed < 0:
            raise DataError(
                f"batch_size={batch_size}, num_workers={num_workers}, seed={seed}: the first must "
                "be at least 1, the others at least 0."
            )
        self.root = Path(root)
        self.splits = splits
        self._categories = categories
        self._read: dict[str, Annotations] = {}
        self.batch_size = batch_size
        self.num_workers = min(4, _cores()) if num_workers is None else num_workers
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or SSDAugment(self.size_hw)
        self.val_transform = val_transform or Resize(self.size_hw)
        for transform in (self.train_transform, self.val_transform):
            if tuple(transform.size_hw) != self.size_hw:
                raise DataError(
                    f"{type(transform).__name__} makes pictures of {tuple(transform.size_hw)}, but "
                    f"size_hw is {self.size_hw}. Give both the same height and width."
                )
        self.mosaic = mosaic
        self.seed = seed
        self.on_error: OnError = on_error
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.multiprocessing_context = multiprocessing_context
        self.datasets: dict[str, DetectionDataset] = {}
        self.train_sampler: EpochSampler | None = None
        self._resumed_batches_per_epoch: int | None = None

    @property
    def categories(self) -> dict[int, str]:
        """COCO category id -> name, known from construction; the position is the class index."""
        if self._categories is None:
            self._categories = self.read_split(next(iter(self.splits))).categories
        return self._categories

    @property
    def num_classes(self) -> int:
        """Number of classes, background not counted."""
        return len(self.categories)

    def read_split(self, split: str) -> Annotations:
        """Read the annotations of "train", "val" or "test"; pictures are not looked at.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.root}: there is no {split} split, only {', '.join(self.splits)}. Say where "
                f"it is with the option data.{split}."
            )
        if split not in self._read:
            self._read[split] = self._read_split(split)
        return self._read[split]

    def _read_split(self, split: str) -> Annotations:
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Read what a stage (fit, validate, test, predict) needs, once.

        Missing pictures come to light here. The headers of evaluation pictures are read, too,
        because the ground truth must be right before the first of them is evaluated; those of
        training pictures are checked as they are read.

        Raises:
            DataError: a file is absent or faulty.
        """
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (self._held_out,)):
            if split in self.datasets:
                continue
            annotations = self.read_split(split)
            del self._read[split]
            fitted = drop_missing(annotations) if split == "train" else fit_to_pictures(annotations)
            self.datasets[split] = self._dataset(split, fitted)
            rank_zero_info("%s data: %s", split, fitted.summary())
        if stage == "fit":
            self.train_sampler = EpochSampler(
                len(self.datasets["train"]), self.seed, progress=self._progress
            )

    def _dataset(self, split: str, annotations: Annotations) -> DetectionDataset:
        if split != "train":
            return DetectionDataset(annotations, self.val_transform, self.seed, self.on_error)
        return DetectionDataset(
            annotations,
            self.train_transform,
            self.seed,
            self.on_error,
            mosaic=self.mosaic,
            mosaic_epochs=self._mosaic_epochs(),
        )

    def _mosaic_epochs(self) -> int | None:
        """Number of epochs with mosaics; None is all: without a trainer there is no last epoch."""
        if self.mosaic is None or self.trainer is None or not self.mosaic.last_epochs:
            return None
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 0:
            raise DataError(
                "mosaic.last_epochs needs to know which epochs are the last: give the training a "
                "length with trainer.max_epochs, or set mosaic.last_epochs to 0."
            )
        return max(epochs - self.mosaic.last_epochs, 0)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Whole batches, in an order that depends on seed and epoch."""
        if self.train_sampler is None:
            self.setup("fit")
        enough = len(self.datasets["train"]) >= self.batch_size
        return self._loader("train", sampler=self.train_sampler, drop_last=enough)

    def val_dataloader(self) -> DataLoader[Sample]:
        """All validation images in the order of the annotation file."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """All test images, or validation images where there is no test split."""
        return self._loader(self._held_out)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The same as `test_dataloader`."""
        return self._loader(self._held_out)

    def teardown(self, stage: str) -> None:
        """Report the pictures that could not be read."""
        for split, dataset in self.datasets.items():
            files = dataset.unreadable
            if files:
                _log.warning(
                    "%s data: %d of %d pictures could not be read during %s and were replaced by "
                    "the next ones: %s",
                    *(split, len(files), len(dataset), stage, ", ".join(files[:10])),
                )

    @property
    def _held_out(self) -> str:
        return "test" if "test" in self.splits else "val"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that `_progress` knows where an epoch was left."""
        return {"batches_per_epoch": self._batches_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._resumed_batches_per_epoch = state_dict["batches_per_epoch"]

    @property
    def _batches_per_epoch(self) -> int | None:
        batches = 0 if self.trainer is None else self.trainer.num_training_batches
        # Lightning knows the number only once the first epoch has begun.
        return int(batches) if 0 < batches < float("inf") else self._resumed_batches_per_epoch

    def _progress(self) -> Progress:
        """Epoch and place in it, from the number of batches trained so far.

        The trainer's own epoch counter lags behind when a run resumes at the end of an epoch.
        """
        if self.trainer is None or not self._batches_per_epoch:
            return Progress(0)
        total = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_loop.batch_progress.total)
        epoch, batches = divmod(total.processed, self._batches_per_epoch)
        return Progress(epoch, batches * self.batch_size)

    def _loader(self, split: str, **options: Any) -> DataLoader[Sample]:
        if split not in self.datasets:
            self.setup({"train": "fit", "val": "validate"}.get(split, "test"))
        return ResumableLoader(
            self.datasets[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
            **options,
        )


class CocoDataModule(DetectionDataModule):
    """Any data set in COCO's format.

    With nothing but a root, the layout is recognised (`LAYOUTS`: COCO 2017 and 2014, one file for
    each split, Roboflow). A split may be a list of parts, as the MobileNet paper trains on
    train2014 and on val2014 without the 8,059 "minival" images.

    Args:
        root: folder of the data set.
        train: where the training split is; null looks for it.
        val: where the validation split is; null looks for it.
        test: where the test split is; null looks for it.
        categories: id -> name of the classes to use, in class order; null takes all that the
            annotation file declares.
        **options: see `DetectionDataModule`.

    Raises:
        DataError: there is no data, or an option is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        train: Split | list[Split] | None = None,
        val: Split | list[Split] | None = None,
        test: Split | list[Split] | None = None,
        categories: dict[int, str] | None = None,
        **options: Any,
    ) -> None:
        given = {"train": train, "val": val, "test": test}
        splits = {
            split: [parts] if isinstance(parts, Split) else list(parts)
            for split, parts in given.items()
            if parts
        }
        if not splits:
            layout, found = find_layout(Path(root))
            splits = {split: [part] for split, part in found.items()}
            rank_zero_info("%s: %s layout with %s", root, layout, ", ".join(found))
        first = Path(root) / next(iter(splits.values()))[0].annotations
        if categories is None and official_title(first):
            # COCO's own files take long to read, and their classes are known.
            categories = COCO_CATEGORIES
        super().__init__(root, splits, categories, **options)
        self._categories = self.categories

    def _read_split(self, split: str) -> Annotations:
        return read_split(self.root, self.splits[split], self._categories, self.on_error)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def _start_worker(worker_id: int) -> None:
    del worker_id
    # Each worker has a core; OpenCV's own threads would fight over it, and do not survive a fork.
    cv2.setNumThreads(0)
