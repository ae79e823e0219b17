"""Tables of a teacher's logits for every image of a dataset, for distillation."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser

from ...backbone.errors import WeightsError
from ...datasets.classification.module import ClassificationDataModule
from ...datasets.errors import DataError
from ...datasets.faces.attributes import AttributeDataModule
from ...datasets.image_module import ImageDataset
from ...datasets.vectors import VectorTable, write_vectors
from ...heads.classification.task import CheckpointTeacher
from ...heads.distillation import ModelTeacher
from ...heads.face_attributes.task import AttributeTeacher
from ..costs.networks import constructor_error, entry, read_config
from .inputs import InputFile
from .runner import Job, Listed, Made, file_digest, pack, print_faults, run_over_files, unpack

DataModule = ClassificationDataModule | AttributeDataModule

_TEACHER = ("model", "init_args", "distillation", "init_args", "teacher")


class LogitsJob(Job):
    """The ``Job`` that computes the logits of a teacher.

    Args:
        teacher: Prepared for the dataset's classes.
        data: Makes the loader.
        dataset: Its images are transformed as for validation.
        device: Where the teacher runs.
        depends: See ``Job``.
    """

    def __init__(
        self,
        teacher: ModelTeacher,
        data: DataModule,
        dataset: ImageDataset[Any],
        device: torch.device,
        depends: dict[str, Any],
    ) -> None:
        self.teacher = teacher
        self.data = data
        self.dataset = dataset
        self.device = device
        self.depends = depends
        self.files_at_once = data.batch_size
        self.positions = {Path(path): index for index, path in enumerate(dataset.paths)}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""
        listed = list(files)
        positions = [self.positions[file.path] for file in listed]
        waiting = iter(zip(listed, positions, strict=True))
        for batch in self.data.loader(self.dataset, sampler=positions):
            logits = self.teacher(batch.images.to(self.device), batch.paths).cpu().numpy()
            # With on_error="skip", a broken image is replaced by the next one, with its own id.
            for row, read in zip(logits, batch.ids.tolist(), strict=True):
                file, position = next(waiting)
                if read == position:
                    yield file, pack(row[None])
                else:
                    yield file, DataError(f"{file.path}: cannot be read")


def cache_logits(
    config: Path, out: Path, checkpoint: Path | None = None, split: str = "train"
) -> VectorTable:
    """Run a teacher over the images of a configuration's data and write its logits.

    The images are transformed as for validation, without randomness. A run that was stopped is
    continued from ``<out>.progress``.

    Args:
        config: A YAML with ``data``, a module for classification or face attributes. Its model's
            ``distillation`` may name the teacher.
        out: ``.npz``, ``.csv`` or ``.parquet``. Files in the data's root are named relative to it.
        checkpoint: The teacher, a checkpoint of the same job; None takes that of the configuration.
        split: train, val or test.

    Raises:
        DataError: The configuration names no data or teacher, or an image cannot be read.
        WeightsError: The teacher cannot be read, or has other classes than the data.
    """
    wanted = _wanted(config, checkpoint)
    data, teacher = _built(config, wanted, checkpoint)
    data.prepare_data()
    transform: Any = data.val_transform  # each module's own kind
    dataset = data.dataset(split, transform)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.prepare(data.num_classes, device)
    _compare_attributes(data, teacher)
    depends = {**wanted, "split": split, "teachers": _digests(wanted.get("teacher"), checkpoint)}
    job = LogitsJob(teacher, data, dataset, device, depends)
    files = (InputFile(Path(path), _relative(path, data.root)) for path in dataset.paths)
    with run_over_files(files, job, Path(f"{out}.progress")) as store:
        if count := store.counts().faults:
            print_faults(store, count)
            raise DataError(
                f"{count:,} images cannot be read, but a table needs all of them. Restore or "
                "remove them; the others are done."
            )
        results = [(file.name, unpack(made)[0]) for file, made in store.results()]
    names, vectors = zip(*results, strict=True)
    table = VectorTable(np.array(names), np.stack(vectors))
    write_vectors(out, table)
    return table


def _digests(teacher: Any, checkpoint: Path | None) -> dict[str, str]:
    """Return the files of a teacher with their digests."""
    options = teacher.get("init_args", {}) if isinstance(teacher, dict) else {}
    names = [str(each) for each in (*options.values(), checkpoint) if isinstance(each, str | Path)]
    return {name: file_digest(Path(name)) for name in names if Path(name).is_file()}


def _relative(path: str, root: Path) -> str:
    file = Path(path)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else path


def _compare_attributes(data: DataModule, teacher: ModelTeacher) -> None:
    names = getattr(teacher, "attributes", None)
    if names is not None and list(names) != list(data.categories.values()):
        raise WeightsError(
            f"the teacher predicts {', '.join(names[:3])}, ..., and not the data's attributes in "
            "their order: choose them with the option `attributes` of the data."
        )


def _wanted(config: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Return the data of a configuration and, unless there is a checkpoint, its teacher."""
    settings = read_config(config)
    wanted = {"data": settings.get("data"), "teacher": entry(settings, *_TEACHER)}
    if checkpoint is not None:
        del wanted["teacher"]
    for name, value in wanted.items():
        if value is None:
            hint = "; name a checkpoint with --teacher" if name == "teacher" else ""
            raise DataError(f"{config}: names no {name}{hint}")
    return wanted


def _built(
    config: Path, wanted: dict[str, Any], checkpoint: Path | None
) -> tuple[DataModule, ModelTeacher]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((ClassificationDataModule, AttributeDataModule), "data")
    if checkpoint is None:
        parser.add_subclass_arguments(ModelTeacher, "teacher")
    try:
        built = parser.instantiate(parser.parse_object(wanted))
    except DataError:
        raise
    except Exception as error:  # any error of a constructor is about the named arguments
        what = constructor_error(error)
        raise DataError(f"{config}: data or teacher cannot be built: {what}") from error
    data = built["data"]
    if checkpoint is None:
        return data, built["teacher"]
    of_faces = isinstance(data, AttributeDataModule)
    return data, (AttributeTeacher if of_faces else CheckpointTeacher)(checkpoint)
