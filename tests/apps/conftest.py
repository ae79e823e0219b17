"""A tiny data set and a tiny recipe, on which the command lines run in seconds."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from mobilevision.apps.inference.face_detection import FaceDetector, FacesFound, FindFaces
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.heads.checkpoint import Plan
from mobilevision.heads.face_embedding import FaceEmbeddingTask, FaceNetwork


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve generated scenes to train on and five, an odd number, to validate on."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(root, train=12, val=5, size_hw=(96, 96), seed=3, progress=False)
    return root


@pytest.fixture
def recipe(tmp_path: Path, scenes: Path) -> Path:
    """A complete configuration: width 0.25 at 64 px, three steps an epoch."""
    callbacks = [
        {
            "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
            "init_args": {"decay": 0.9, "update_every_n_steps": 1},
        },
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"save_last": True, "every_n_train_steps": 1},
        },
        {"class_path": "mobilevision.apps.callbacks.images.DetectionImages"},
        {"class_path": "mobilevision.apps.callbacks.errors.ErrorReport"},
        {"class_path": "mobilevision.apps.callbacks.plots.Curves"},
    ]
    config = {
        "seed_everything": 7,
        "trainer": {
            "default_root_dir": str(tmp_path / "runs"),
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "mobilevision.heads.detection.DetectionTask",
            "init_args": {
                "network": {
                    "class_path": "mobilevision.heads.detection.SSD",
                    "init_args": {
                        "backbone": {
                            "class_path": "mobilevision.backbone.MobileNetV1",
                            "init_args": {"width_mult": 0.25},
                        },
                        "postprocess": {  # a network that knows nothing yet finds something
                            "class_path": "mobilevision.heads.detection.PostProcess",
                            "init_args": {"score_threshold": 0.0001},
                        },
                    },
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.002}},
                "lr_scheduler": {
                    "class_path": "mobilevision.heads.schedules.WarmupCosine",
                    "init_args": {"warmup_steps": 2},
                },
            },
        },
        "data": {
            "class_path": "mobilevision.datasets.detection.module.DetectionDataModule",
            "init_args": {
                "root": str(scenes),
                "size_hw": [64, 64],
                "batch_size": 4,
                "num_workers": 0,
            },
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def face_network() -> FaceNetwork:
    """Untrained: width 0.25, faces of 32 px, 24 numbers; different faces get different ones."""
    torch.manual_seed(0)
    network = FaceNetwork(MobileNetV1(width_mult=0.25), dimension=24, size=32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    return network.eval()


@pytest.fixture(scope="session")
def write_face_checkpoint(face_network: FaceNetwork) -> Callable[..., Path]:
    """Writes that network as `lightning fit` does: path, plain metadata -> path."""

    def write(path: Path, **metadata: Any) -> Path:
        plan = Plan(
            FaceNetwork,
            {"backbone": Plan(MobileNetV1, {"width_mult": 0.25}), "dimension": 24, "size": 32},
        )
        state = {f"network.{name}": value for name, value in face_network.state_dict().items()}
        content = {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": state,
            "hparams_name": "kwargs",
            "hyper_parameters": {
                "network": plan.as_plain(),
                "_class_path": f"{FaceEmbeddingTask.__module__}.FaceEmbeddingTask",
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            },
            "mobilevision": {"format": 1, "size_hw": [32, 32], **metadata},
        }
        torch.save(content, path)
        return path

    return write


class Found(NamedTuple):
    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray


class ListedFaces:
    """A detector that knows the landmarks of a CelebA folder's faces; no other image has a face."""

    def __init__(self, root: Path, most: int | None = None) -> None:
        table = read_celeba(root).table
        assert table.landmarks is not None
        self.known = {
            np.asarray(Image.open(path)).tobytes(): points
            for path, points in zip(table.paths[:most], table.landmarks[:most], strict=True)
        }

    def __call__(self, images: Sequence[np.ndarray]) -> list[FacesFound]:
        return [self._faces(image) for image in images]

    def _faces(self, image: np.ndarray) -> FacesFound:
        points = self.known.get(image.tobytes())
        count = int(points is not None)
        box = np.array([[40, 60, 130, 190]], np.float32)[:count]
        landmarks = np.zeros((0, 5, 2), np.float32) if points is None else points[None]
        return Found(box, landmarks, np.full(count, 0.97, np.float32))


@pytest.fixture(scope="session")
def retinaface_cache(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the weights of the public face detector are downloaded already."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "weights").mkdir()
    weights = real_data / "retinaface" / "mobilenet0.25_Final.pth"
    shutil.copyfile(weights, folder / "weights" / f"{FaceDetector.default}.pth")
    return folder


@pytest.fixture
def public_retinaface(retinaface_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where faces are searched for by default: nothing is downloaded."""
    monkeypatch.setenv("MOBILEVISION_CACHE", str(retinaface_cache))


@pytest.fixture(scope="session")
def listed_faces() -> Callable[..., FindFaces]:
    """A CelebA folder, and of how many images at the most -> a detector of their faces."""
    return ListedFaces
