"""Tables of a teacher's logits for every image of a dataset, from which students learn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from tqdm import tqdm

from ...backbone.errors import WeightsError
from ...datasets.classification.module import ClassificationDataModule
from ...datasets.errors import DataError
from ...datasets.faces.attributes import AttributeDataModule
from ...datasets.vectors import VectorTable, write_vectors
from ...heads.classification.task import CheckpointTeacher
from ...heads.distillation import ModelTeacher
from ...heads.face_attributes.task import AttributeTeacher
from ..costs.networks import constructor_error, entry, read_config

DataModule = ClassificationDataModule | AttributeDataModule

_TEACHER = ("model", "init_args", "distillation", "init_args", "teacher")


def cache_logits(
    config: Path, out: Path, checkpoint: Path | None = None, split: str = "train"
) -> VectorTable:
    """Run a teacher over the images of a configuration's data and write its logits.

    The images are transformed as for validation: nothing is random.

    Args:
        config: A YAML with ``data``, a module for classification or face attributes. Its model's
            ``distillation`` may name the teacher.
        out: ``.npz``, ``.csv`` or ``.parquet``. Files in the data's root are named relative to it.
        checkpoint: The teacher, a checkpoint of the same job; None takes the configuration's.
        split: train, val or test.

    Raises:
        DataError: The configuration names no data or teacher, or an image cannot be read.
        WeightsError: The teacher cannot be read, or has other classes than the data.
    """
    data, teacher = _built(config, checkpoint)
    data.prepare_data()
    transform: Any = data.val_transform  # each module's own kind
    dataset = data.dataset(split, transform)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.prepare(data.num_classes, device)
    _compare_attributes(data, teacher)
    files: list[str] = []
    vectors: list[np.ndarray] = []
    with tqdm(total=len(dataset), desc="teacher", unit="image") as progress:
        for batch in data.loader(dataset):
            vectors.append(teacher(batch.images.to(device), batch.paths).cpu().numpy())
            files += [_relative(path, data.root) for path in batch.paths]
            progress.update(len(batch.paths))
    if unreadable := dataset.unreadable:
        raise DataError(
            f"{len(unreadable):,} images cannot be read, such as {unreadable[0]}; a table needs "
            "all of them. Restore or remove them."
        )
    table = VectorTable(np.array(files), np.concatenate(vectors))
    write_vectors(out, table)
    return table


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


def _built(config: Path, checkpoint: Path | None) -> tuple[DataModule, ModelTeacher]:
    settings = read_config(config)
    wanted = {"data": settings.get("data"), "teacher": entry(settings, *_TEACHER)}
    if checkpoint is not None:
        del wanted["teacher"]
    for name, value in wanted.items():
        if value is None:
            hint = "; name a checkpoint with --teacher" if name == "teacher" else ""
            raise DataError(f"{config}: names no {name}{hint}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((ClassificationDataModule, AttributeDataModule), "data")
    if checkpoint is None:
        parser.add_subclass_arguments(ModelTeacher, "teacher")
    try:
        built = parser.instantiate(parser.parse_object(wanted))
    except DataError:
        raise
    except Exception as error:  # whatever a constructor raises is about the named arguments
        what = constructor_error(error)
        raise DataError(f"{config}: data or teacher cannot be built: {what}") from error
    data = built["data"]
    if checkpoint is None:
        return data, built["teacher"]
    of_faces = isinstance(data, AttributeDataModule)
    return data, (AttributeTeacher if of_faces else CheckpointTeacher)(checkpoint)
