"""What embeds aligned faces: a trained network, or another people's that it learns from."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ...datasets.errors import DataError
from ...heads.checkpoint import load_task, read_checkpoint
from ...heads.face_embedding.task import FaceEmbeddingTask
from ...heads.face_embedding.teachers import FaceTeacher, open_teacher
from ..engines.torch_network import TorchNetwork
from .exported_engines import is_exported, load_exported_embedding
from .results import Threshold, measured_threshold


class EmbeddingEngine(Protocol):
    """A face network that is ready to run."""

    @property
    def size(self) -> int:
        """Side in px of the aligned faces."""
        ...

    @property
    def threshold(self) -> Threshold | None:
        """Least similarity of one person, as measured; None where nobody measured it."""
        ...

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Embed (B, size, size, 3) uint8 RGB to (B, D) float32 of unit length."""
        ...


class TorchEmbeddingEngine(TorchNetwork):
    """A face network in eager torch; see ``TorchNetwork``.

    Args:
        network: Takes (B, 3, size, size) uint8 RGB and gives (B, D).
        size: Side in px of the aligned faces.
        threshold: As measured.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        threshold: Threshold | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(network, device)
        self.size = size
        self.threshold = threshold

    @torch.inference_mode()
    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """See ``EmbeddingEngine``."""
        said = nn.functional.normalize(self.answer(faces).float(), dim=1)
        return said.cpu().numpy()


class TeacherEngine:
    """Another people's face network behind the same protocol; nobody measured its threshold here.

    Args:
        teacher: From ``open_teacher``; opened here.

    Raises:
        WeightsError: It cannot be read, or its library is absent.
    """

    threshold: Threshold | None = None

    def __init__(self, teacher: FaceTeacher) -> None:
        self.teacher = teacher
        teacher.embed(np.zeros((1, teacher.size, teacher.size, 3), np.uint8))  # opens it

    @property
    def size(self) -> int:
        """Side in px of the aligned faces."""
        return self.teacher.size

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """See ``EmbeddingEngine``."""
        return self.teacher.embed(faces)


def load_embedding_engine(
    model: str | Path, device: str = "auto", size: int | None = None
) -> EmbeddingEngine:
    """Load a face network.

    Args:
        model: A checkpoint of ``FaceEmbeddingTask`` or what ``mobilevision export`` made of one;
            or a teacher's word, such as ``facenet:vggface2``, ``onnx:FILE`` or ``ncnn:FILE.param``.
        device: "auto" takes an accelerator where there is one, else the CPU. Teachers run where
            their library has them.
        size: Side in px of the faces; None takes that of training.

    Raises:
        DataError: No such file, no face network in it, or no such device.
        WeightsError: A teacher cannot be read.
    """
    teacher = open_teacher(str(model))
    if teacher is not None:
        return TeacherEngine(teacher)
    path = Path(model)
    if is_exported(path):
        return load_exported_embedding(path, device, size)
    if not path.is_file():
        raise DataError(
            f"{path}: no such model. Give a checkpoint of `lightning fit -c "
            "configs/face_embedding.yaml`, or facenet:vggface2, onnx:FILE, ncnn:FILE.param."
        )
    task = load_task(path, FaceEmbeddingTask)
    size = size or _trained_size(path, task.facts)
    return TorchEmbeddingEngine(task.network, size, measured_threshold(task.facts), device)


def model_facts(model: str | Path) -> dict[str, Any]:
    """What tells a model from others: plain data, equal where its embeddings are.

    Of a checkpoint the weights count, not its name or what else is in it, such as the threshold.

    Args:
        model: As for ``load_embedding_engine``.

    Raises:
        DataError: It is a checkpoint that cannot be read.
    """
    digest = hashlib.sha256()
    if Path(model).is_file() and is_exported(model):
        return {"kind": "exported", "sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest()}
    if Path(model).is_file():
        checkpoint = read_checkpoint(model)
        for name, value in sorted(checkpoint.get("state_dict", {}).items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return {"kind": "checkpoint", "sha256": digest.hexdigest()}
    kind, _, rest = str(model).partition(":")
    path = Path(rest)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]
    if not path.is_file():
        return {"kind": str(model)}
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return {"kind": kind, "sha256": digest.hexdigest()}


def _trained_size(path: Path, facts: dict[str, Any]) -> int:
    size_hw = facts.get("size_hw")
    if size_hw is None:
        raise DataError(
            f"{path}: does not say how large its faces were in training. Give the size, for "
            "instance size=160 or --size 160."
        )
    return int(size_hw[0])
