"""Training and measuring."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.module import FaceDataModule
from mobilevision.datasets.faces.sources import FolderFaces
from mobilevision.datasets.types import FaceBatch
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors
from mobilevision.heads.face_embedding import (
    ArcFace,
    FaceEmbeddingTask,
    FaceNetwork,
    LossSum,
    RelationalDistance,
    SquaredDifference,
    TableTeacher,
    TripletLoss,
)

PEOPLE, IMAGES = 6, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people who are patterns, and what a teacher says of each image: who it is."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    files, vectors = [], []
    for person in range(PEOPLE):
        pattern = cv2.resize(rng.uniform(0, 255, (4, 4, 3)).astype(np.float32), (64, 64))
        (root / f"p{person}").mkdir()
        for number in range(IMAGES):
            pixels = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / f"p{person}" / f"p{person}_{number + 1:04}.png"), pixels)
            files.append(f"p{person}/p{person}_{number + 1:04}.png")
            vectors.append(np.eye(8)[person])
    write_vectors(root / "teacher.npz", VectorTable(np.array(files), np.array(vectors, "f4")))
    return root


def data(root: Path, **options: Any) -> FaceDataModule:
    held_out = FolderFaces(root, make_pairs=4)
    defaults: dict[str, Any] = {"size_hw": (64, 64), "batch_size": 24, "num_workers": 0}
    return FaceDataModule(FolderFaces(root), held_out, **(defaults | options))


def task(root: Path, **options: Any) -> FaceEmbeddingTask:
    seed_everything(0)
    network = FaceNetwork(MobileNetV1(0.25, out_strides=(32,), norm_momentum=0.2), dimension=8)
    defaults = {"teacher": TableTeacher(root / "teacher.npz")}
    return FaceEmbeddingTask(network, **(defaults | options))


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults = {
        "default_root_dir": tmp_path, "accelerator": "cpu", "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(**(defaults | options))


def adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=3e-3)


def test_one_batch__is_learned_by_heart_and_the_threshold_is_kept(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ModelCheckpoint(tmp_path, "best", "val/accuracy", mode="max")
    run = trainer(tmp_path, max_epochs=30, check_val_every_n_epoch=30, enable_checkpointing=True,
                  callbacks=[best])  # fmt: skip
    model = task(root, optimizer=adam)
    run.fit(model, datamodule=data(root))
    assert run.callback_metrics["train/loss"] < 0.1
    assert run.callback_metrics["val/auc"] == 1
    content = json.loads((tmp_path / "verification.json").read_text())
    assert content["auc"] == 1
    assert content["far"] == 0
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert saved["mobilevision"]["verification"]["threshold"] == content["threshold"]
    assert saved["mobilevision"]["verification"]["far"] == 0
    assert saved["mobilevision"]["size_hw"] == [64, 64]
    assert "Verification on" in capsys.readouterr().out
    assert model.last_result is not None

    (tested,) = trainer(tmp_path / "test").test(model, datamodule=data(root), verbose=False)
    assert tested["test/auc"] == 1
    trainer(tmp_path / "predict").predict(model, datamodule=data(root), return_predictions=False)
    file = tmp_path / "predict" / "embeddings.npz"
    assert os.name != "posix" or file.stat().st_mode & 0o077 == 0  # biometric data
    table = read_vectors(file)
    assert table.files[5] == "p1/p1_0002.png"
    assert table.vectors.shape == (24, 8)
    with torch.no_grad():
        image = cv2.imread(str(root / table.files[5]))[..., ::-1].copy()
        said = model.network.eval()(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(table.vectors[5], said[0].numpy(), atol=1e-4)


def test_identities__are_learned_without_a_teacher(root: Path, tmp_path: Path) -> None:
    model = task(root, teacher=None, loss=ArcFace(PEOPLE, 8, scale=16.0), optimizer=adam)
    before = model.loss.centers.clone()  # type: ignore[union-attr]
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=data(root))
    assert "train/loss_identity" in run.callback_metrics
    assert not torch.equal(model.loss.centers, before)  # type: ignore[arg-type]


def test_triplets__tell_people_apart_without_a_teacher(root: Path, tmp_path: Path) -> None:
    model = task(root, teacher=None, loss=TripletLoss(), optimizer=adam)
    run = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    run.fit(model, datamodule=data(root, batch_size=12, faces_per_person=2))
    assert run.callback_metrics["train/loss_triplet"] < 0.05
    assert run.callback_metrics["val/auc"] == 1


def test_triplets__of_batches_without_two_faces_of_a_person(root: Path, tmp_path: Path) -> None:
    model = task(root, teacher=None, loss=TripletLoss())
    with pytest.raises(DataError, match=r"Set data\.faces_per_person"):
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=data(root, batch_size=1))


def test_losses__several_at_once_reach_every_parameter(root: Path) -> None:
    loss = LossSum([SquaredDifference(), RelationalDistance(0.5), ArcFace(PEOPLE, 8, weight=0.1),
                    TripletLoss()])  # fmt: skip
    model = task(root, loss=loss)
    module = data(root, views=1)
    module.setup("fit")
    model.teacher.prepare(8, model.device, module.datasets["train"].views)  # type: ignore[union-attr]
    batch: FaceBatch = next(iter(module.train_dataloader()))
    parts = model.losses(model(batch.images), batch)
    assert set(parts) == {"squared", "relational", "identity", "triplet"}
    torch.stack(list(parts.values())).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_teacher__is_missed_before_training(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SquaredDifference compares with a teacher"):
        trainer(tmp_path, max_epochs=1).fit(task(root, teacher=None), datamodule=data(root))


def test_partial_evaluation__measures_nothing_and_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = task(root)
    module = data(root, batch_size=6)
    trainer(tmp_path, limit_test_batches=2).test(model, datamodule=module, verbose=False)
    assert "Nothing verified: only 12 of 24 faces" in capsys.readouterr().out
    assert model.last_result is None
    assert not (tmp_path / "verification.json").exists()
