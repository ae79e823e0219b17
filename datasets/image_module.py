"""Base classes of datasets and data modules: options, loaders, order of training, resuming."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, cast

import cv2
import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, default_collate

from .data_errors import OnError, data_log
from .errors import DataError
from .images import ImageFile
from .sampling import EpochSampler, Progress, ResumableLoader, SampleKey

_Sample_co = TypeVar("_Sample_co", covariant=True)
_T = TypeVar("_T")


class ImageSource(Protocol):
    """N images and their files."""

    @property
    def name(self) -> str:
        """The name of the data in results."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """N names of files, each once."""
        ...

    def image(self, index: int) -> ImageFile:
        """Return the image at a position; nothing is read yet."""
        ...


class ImageDataset(Dataset[_Sample_co]):
    """Images that are read and augmented one by one; a subclass defines ``read_sample``.

    The augmentation of an image depends on seed, epoch and position alone, not on the number of
    workers or on where a run was resumed.

    Args:
        name: the name of the data in results, with its number of images.
        paths: N files, strings.
        seed: at least 0.
        on_error: "raise" stops at an image that cannot be read; "skip" returns the next good one,
            with its own labels and position, and lists the file in `unreadable`.

    Raises:
        DataError: there are no images.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[str] | np.ndarray,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        if not len(paths):
            raise DataError(f"{name}: no images are left. Check the dataset.")
        self.name = name
        self.paths = paths
        self.seed = seed
        self.on_error = on_error
        # In shared memory, so that the main process sees what its workers find.
        self._unreadable = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: SampleKey | int) -> _Sample_co:
        """Read the sample of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
            IndexError: there is no such position.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self.read_sample(index, np.random.default_rng(rng_key))
        )

    def read_sample(self, index: int, rng: np.random.Generator) -> _Sample_co:
        """Read and augment the image at a position."""
        raise NotImplementedError

    def rng_key(self, key: SampleKey | int) -> tuple[int, int, int]:
        """Return seed, epoch and position of a key: all that augmentation may depend on."""
        position, epoch = (key, 0) if isinstance(key, int) else key
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} in a dataset of {len(self)} images")
        return self.seed, epoch, position % len(self)

    def first_readable(self, position: int, read: Callable[[int], _T]) -> _T:
        """Call ``read`` with a position; if it fails, under "skip" with the next ones.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        last_error = None
        for step in range(len(self)):
            candidate = (position + step) % len(self)
            try:
                return read(candidate)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._unreadable[candidate] = True
                last_error = error
        raise DataError(f"{self.name}: none of the images can be read; the last: {last_error}")

    @property
    def unreadable(self) -> list[str]:
        """The files that could not be read so far, by worker processes too."""
        return [self.paths[int(index)] for index in self._unreadable.nonzero()]

    def summary(self) -> str:
        """One line for the log."""
        return self.name


class TableDataset(ImageDataset[_Sample_co]):
    """The images of a table, with a transform; see `ImageDataset` for the other arguments."""

    def __init__(
        self, table: Any, transform: Any, seed: int = 0, on_error: OnError = "raise"
    ) -> None:
        super().__init__(table.name, table.paths, seed, on_error)
        self.table = table
        self.transform = transform


def collate_fields(samples: list[Any]) -> list[Any]:
    """Stack the fields of B samples whose first field is an image (H, W, 3) uint8.

    The images become (B, 3, H, W), in memory order channels_last; of the other fields, arrays
    and numbers become tensors and strings a tuple.
    """
    columns: list[Any] = list(zip(*samples, strict=True))
    images, *fields = columns
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return [pixels, *(default_collate(field) for field in fields)]


class ImageDataModule(LightningDataModule):
    """Base of the data modules; a subclass defines ``read_dataset`` and ``collate``.

    Test and prediction use the test split, or the validation split if there is none. Whatever reads
    a split raises a `DataError` if there is no such split, or a file is absent or faulty.

    Args:
        batch_size: images of each process in a batch.
        num_workers: processes that read images; null takes one for each core, at most 4; 0 reads
            in the main process.
        seed: of order and augmentation, at least 0.
        on_error: "raise" stops at anything that is wrong with the data; "skip" leaves it out,
            counts it and reports the counts.
        pin_memory: page-locked batches; null where there is a CUDA device.
        multiprocessing_context: how workers start (fork, forkserver, spawn); null leaves it to
            Python.

    Attributes:
        splits: "train", "val", "test" -> what the subclass needs to find it; a subclass sets them.
        datasets: what `setup` has read, by split.
        train_sampler: the order of training, once `setup` has run.

    Raises:
        DataError: an option is out of its range; so for all subclasses.
    """

    collate: Callable[[list[Any]], Any]
    """Makes a batch of samples."""

    def __init__(
        self,
        *,
        batch_size: int = 24,
        num_workers: int | None = None,
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
        self.batch_size = batch_size
        self.num_workers = min(4, _cores()) if num_workers is None else num_workers
        self.seed = seed
        self.on_error: OnError = on_error
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.multiprocessing_context = multiprocessing_context
        self.splits: dict[str, Any] = {}
        self.datasets: dict[str, Any] = {}
        self.train_sampler: EpochSampler | None = None
        self._resumed_batches_per_epoch: int | None = None

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise a `DataError`: Lightning would build any class that an untrusted file names."""
        raise DataError(
            f"{cls.__name__}: data modules are not made from checkpoints, which may be anybody's. "
            "The config.yaml of the run says what its data was"
        )

    def read_dataset(self, split: str) -> ImageDataset[Any]:
        """Read the dataset of "train", "val" or "test"."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Read what a stage (fit, validate, test, predict) needs, once."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (self._held_out,)):
            if split not in self.datasets:
                self.datasets[split] = self.read_dataset(split)
                rank_zero_info("%s data: %s", split, self.datasets[split].summary())
        if stage == "fit":
            self.train_sampler = self.make_sampler(self.datasets["train"])

    def make_sampler(self, dataset: ImageDataset[Any]) -> EpochSampler:
        """Return the order of training: each image once an epoch."""
        return EpochSampler(len(dataset), self.seed, progress=self._progress)

    def train_dataloader(self) -> DataLoader[Any]:
        """Whole batches, in an order that depends on seed and epoch."""
        if self.train_sampler is None:
            self.setup("fit")
        enough = len(self.datasets["train"]) >= self.batch_size
        return self._loader("train", sampler=self.train_sampler, drop_last=enough)

    def val_dataloader(self) -> DataLoader[Any]:
        """All validation images in the order of the dataset."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """All test images, or validation images if there is no test split."""
        return self._loader(self._held_out)

    def predict_dataloader(self) -> DataLoader[Any]:
        """See `test_dataloader`."""
        return self._loader(self._held_out)

    def teardown(self, stage: str) -> None:
        """Report the images that could not be read."""
        for split, dataset in self.datasets.items():
            files = dataset.unreadable
            if files:
                data_log.warning(
                    "%s data: %d of %d images could not be read during %s and were replaced by "
                    "the next ones: %s",
                    *(split, len(files), len(dataset), stage, ", ".join(files[:10])),
                )

    @property
    def _held_out(self) -> str:
        return "test" if "test" in self.splits else "val"

    def state_dict(self) -> dict[str, Any]:
        """Return what `_progress` needs after a resume."""
        return {"batches_per_epoch": self._batches_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self._resumed_batches_per_epoch = state_dict["batches_per_epoch"]

    @property
    def _batches_per_epoch(self) -> int | None:
        batches = 0 if self.trainer is None else self.trainer.num_training_batches
        # Lightning knows the number only once the first epoch has begun.
        return int(batches) if 0 < batches < float("inf") else self._resumed_batches_per_epoch

    def _progress(self) -> Progress:
        """Return epoch and place in it, from the number of batches trained so far.

        The trainer's own epoch counter lags behind when a run resumes at the end of an epoch.
        """
        if self.trainer is None or not self._batches_per_epoch:
            return Progress(0)
        total = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_loop.batch_progress.total)
        epoch, batches = divmod(total.processed, self._batches_per_epoch)
        return Progress(epoch, batches * self.batch_size)

    def _loader(self, split: str, **options: Any) -> DataLoader[Any]:
        if split not in self.datasets:
            self.setup({"train": "fit", "val": "validate"}.get(split, "test"))
        return self.loader(self.datasets[split], **options)

    def loader(self, dataset: ImageDataset[Any], **options: Any) -> DataLoader[Any]:
        """Return a DataLoader with this module's options; ``options`` are further ones of its."""
        workers, context = self.num_workers, self.multiprocessing_context
        return ResumableLoader(
            dataset, batch_size=self.batch_size, collate_fn=type(self).collate,
            num_workers=workers, persistent_workers=workers > 0, worker_init_fn=_start_worker,
            pin_memory=self.pin_memory, multiprocessing_context=context if workers else None,
            **options,
        )  # fmt: skip


def given_splits(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the splits that an option does not name (None or "")."""
    return {split: place for split, place in splits.items() if place not in (None, "")}


def require_split(root: Path, splits: Mapping[str, Any], split: str) -> None:
    """Raise a `DataError` unless a data module has a split."""
    if split not in splits:
        raise DataError(
            f"{root}: there is no {split} split, only {', '.join(splits)}. Give its place with "
            f"the option data.{split}."
        )


def require_size(transform: Any, size_hw: tuple[int, int]) -> None:
    """Raise a `DataError` unless a transform makes images of the network's input size."""
    if tuple(transform.size_hw) != size_hw:
        raise DataError(
            f"{type(transform).__name__} makes images of {tuple(transform.size_hw)}, but the "
            f"network takes {size_hw}. Give both the same height and width."
        )


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def _start_worker(worker_id: int) -> None:
    del worker_id
    # Each worker has a core; OpenCV's own threads would fight over it, and do not survive a fork.
    cv2.setNumThreads(0)
