"""Training and measuring both jobs at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from mobilevision.apps.callbacks.images import AttributeImages
from mobilevision.apps.callbacks.plots import RocPlot
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.attributes import CelebAModule
from mobilevision.datasets.faces.module import CelebAPeopleModule
from mobilevision.datasets.faces.sources import CelebAFaces
from mobilevision.datasets.faces.views import FaceViews
from mobilevision.datasets.types import AttributeBatch
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors
from mobilevision.heads.face_embedding import ArcFace, SquaredDifference, TableTeacher
from mobilevision.heads.face_embedding.verification import verify_pairs
from mobilevision.heads.faces import FacesNetwork, FacesTask

NAMES = {0: "Red_Face", 1: "Wearing_Hat", 2: "Never"}


def task(root: Path, **options: Any) -> FacesTask:
    torch.manual_seed(0)
    backbone = MobileNetV1(0.25, out_strides=(32,), norm_momentum=0.2)
    network = FacesNetwork(backbone, 3, dimension=8, landmarks=True)
    return FacesTask(network, NAMES, **({"teacher": TableTeacher(root / "teacher.npz")} | options))


def data(root: Path, **options: Any) -> CelebAPeopleModule:
    defaults = {"size_hw": (40, 32), "batch_size": 4, "num_workers": 0, "pairs_per_fold": 2}
    return CelebAPeopleModule(root, **(defaults | options))


def quiet_trainer(root: Path, **options: Any) -> Trainer:
    return Trainer(default_root_dir=root, enable_progress_bar=False, enable_model_summary=False,
                   accelerator="cpu", **({"logger": False} | options))  # fmt: skip


def prepared(root: Path, **options: Any) -> tuple[FacesTask, AttributeBatch]:
    """A task whose teacher is read, and the first training batch."""
    model, module = task(root, **options), data(root, batch_size=12)
    module.setup("fit")
    if model.teacher is not None:
        views = FaceViews(module.datasets["train"].faces)
        model.teacher.prepare(8, torch.device("cpu"), views)
    return model, next(iter(module.train_dataloader()))


def test_losses__of_both_jobs__by_hand(drawn_people: Path) -> None:
    model, batch = prepared(drawn_people, embedding_loss=SquaredDifference(0.5))
    model.train()
    output = model(batch.images)
    parts = model.losses(output, batch)
    assert set(parts) == {"labels", "landmarks", "squared"}
    # The teacher has an axis for each person, whatever was done to the crop.
    targets = torch.eye(8)[batch.identities]
    expected = 0.5 * (output.embeddings - targets).square().sum(dim=1).mean()
    torch.testing.assert_close(parts["squared"], expected)
    model.eval()
    alone = model.losses(output, batch)
    assert set(alone) == {"labels", "landmarks"}  # held-out people are not in the table
    torch.testing.assert_close(alone["labels"], parts["labels"])


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"label_weight": 0.0, "landmark_weight": 0.0}, "attributes"),
        ({"embedding_loss": SquaredDifference(0.0)}, "embedding"),
    ],
)
def test_losses__one_job_alone__the_other_head_learns_nothing(
    drawn_people: Path, options: dict, idle: str
) -> None:
    model, batch = prepared(drawn_people, **options)
    torch.stack(list(model.losses(model(batch.images), batch).values())).sum().backward()
    moved = {name.split(".")[1] for name, p in model.named_parameters()
             if p.grad is not None and p.grad.any()}  # fmt: skip
    assert moved == {"backbone", "attributes", "embedding"} - {idle}


def test_losses__reach_every_parameter(drawn_people: Path) -> None:
    model, batch = prepared(drawn_people, teacher=None, embedding_loss=ArcFace(6, 8))
    torch.stack(list(model.losses(model(batch.images), batch).values())).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_overfit__one_batch__both_jobs_are_learned(drawn_people: Path) -> None:
    model, batch = prepared(drawn_people)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        losses = model.losses(model(batch.images), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["labels"].item() < 0.05
    assert losses["squared"].item() < 0.05


def test_fit_and_test__files_thresholds_and_images_of_both_jobs(
    drawn_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = task(drawn_people, groups=("Wearing_Hat",))
    images = [AttributeImages(), RocPlot()]
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=images)
    trainer.fit(model, data(drawn_people))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train/loss_labels", "train/loss_landmarks", "train/loss_squared", "val/loss_labels",
            "val/mean_ap", "val/accuracy", "val/auc"} <= set(logged)  # fmt: skip
    assert "val/loss_squared" not in logged
    assert logged["val/both"] == pytest.approx((logged["val/mean_ap"] + logged["val/accuracy"]) / 2)
    assert (tmp_path / "precision_recall.png").is_file()
    assert (tmp_path / "roc.png").is_file()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    metadata = torch.load(tmp_path / "a.ckpt", weights_only=True)["mobilevision"]
    assert metadata["attributes"] == list(NAMES.values())
    assert metadata["label_counts"] == [[6, 6], [4, 8], [12, 0]]
    assert metadata["size_hw"] == [40, 32]
    verified = json.loads((tmp_path / "verification.json").read_text())
    assert verified["dataset"] == "celeba val"
    assert metadata["verification"]["threshold"] == verified["threshold"]

    other = task(drawn_people, teacher=None)  # it is not asked for
    out = tmp_path / "test"
    quiet_trainer(out).test(other, data(drawn_people), ckpt_path=tmp_path / "a.ckpt",
                            weights_only=True, verbose=False)  # fmt: skip
    described = json.loads((out / "attribute_metrics.json").read_text())
    verified = json.loads((out / "verification.json").read_text())
    assert described["dataset"] == verified["dataset"] == "celeba test"
    assert (described["images"], verified["pairs"], verified["all"]["people"]) == (6, 4, 4)
    assert len((out / "predictions.csv").read_text().splitlines()) == 7
    assert other.metadata["verification"] == metadata["verification"]  # of validation
    printed = capsys.readouterr().out
    assert "the hardest first" in printed
    assert "Verification on celeba test: 4 pairs in 2 folds" in printed


def test_predict__rows_of_both_jobs(drawn_people: Path, tmp_path: Path) -> None:
    model, module = task(drawn_people), data(drawn_people)
    quiet_trainer(tmp_path).predict(model, module, return_predictions=False)
    table = read_vectors(tmp_path / "embeddings.npz")
    assert table.files.tolist() == [f"{number:06d}.jpg" for number in range(19, 25)]
    (batch,) = data(drawn_people, batch_size=6).test_dataloader()
    with torch.no_grad():
        expected = model.network.eval()(batch.images).embeddings
    np.testing.assert_allclose(table.vectors, expected.numpy(), atol=1e-5)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 7


def test_partial_evaluation__attributes_are_measured_and_nobody_is_verified(
    drawn_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = task(drawn_people)
    trainer = quiet_trainer(tmp_path, limit_test_batches=1)
    trainer.test(model, data(drawn_people), verbose=False)
    assert "Nothing verified: only 4 of 6 faces of celeba test" in capsys.readouterr().out
    assert model.attribute_result is not None
    assert model.verification is None
    assert not (tmp_path / "verification.json").exists()


def test_teacher__absent_or_of_other_files__refused(drawn_people: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=1)
    with pytest.raises(DataError, match="SquaredDifference compares with a teacher"):
        trainer.fit(task(drawn_people, teacher=None), data(drawn_people))
    table = read_vectors(drawn_people / "teacher.npz")
    write_vectors(tmp_path / "few.npz", VectorTable(table.files[1:], table.vectors[1:]))
    model = task(drawn_people, teacher=TableTeacher(tmp_path / "few.npz"))
    with pytest.raises(WeightsError, match=r"1 of 12 files are not in it: 000001\.jpg"):
        quiet_trainer(tmp_path, max_steps=1).fit(model, data(drawn_people))


def test_data__without_people__refused(drawn_people: Path, tmp_path: Path) -> None:
    module = CelebAModule(drawn_people, size_hw=(40, 32), batch_size=4, num_workers=0)
    with pytest.raises(DataError, match="knows no people"):
        quiet_trainer(tmp_path).test(task(drawn_people), module, verbose=False)


def test_checkpoint__of_other_attributes__refused(drawn_people: Path, tmp_path: Path) -> None:
    model = task(drawn_people)
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(model, data(drawn_people))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = FacesTask(model.network, {0: "Never", 1: "Red_Face", 2: "Wearing_Hat"})
    with pytest.raises(WeightsError, match="checkpoint is of the attributes Red_Face"):
        quiet_trainer(tmp_path).test(other, data(drawn_people), ckpt_path=tmp_path / "a.ckpt",
                                     weights_only=True, verbose=False)  # fmt: skip


@pytest.mark.real_data
def test_real_celeba__table_files_and_pairs_belong_together(real_data: Path) -> None:
    table = real_data / "teacher" / "celeba.parquet"
    module = data(real_data / "celeba", size_hw=(160, 128), pairs_per_fold=100)
    module.setup("fit")
    train, held_out = module.datasets["train"], module.datasets["val"].faces
    rows = read_vectors(table)
    by_file = dict(zip(rows.files.tolist(), rows.vectors, strict=True))
    # Another reader of the same folder draws the same pairs of the same files.
    other = CelebAFaces(real_data / "celeba", parts=["val"], make_pairs=100).read()
    assert held_out.files == other.files
    assert held_out.pairs is not None
    assert other.pairs is not None
    for own, theirs in zip(held_out.pairs, other.pairs, strict=True):
        np.testing.assert_array_equal(own, theirs)
    # The teacher itself tells these people apart, as far as CelebA's identities are right: 0.966.
    embeddings = np.stack([by_file[file] for file in held_out.files])
    result = verify_pairs(embeddings, held_out.pairs, "CelebA val", held_out.identities)
    assert result.accuracy == pytest.approx(0.966, abs=0.002)
    teacher = TableTeacher(table)
    teacher.prepare(128, torch.device("cpu"), FaceViews(train.faces))
    torch.manual_seed(0)
    network = FacesNetwork(MobileNetV1(0.25, out_strides=(32,)), 40)
    model = FacesTask(network, module.categories, teacher)
    batch = next(iter(module.train_dataloader()))
    output = model(batch.images)
    said = model.losses(output, batch)["squared"]
    wanted = torch.from_numpy(np.stack([by_file[Path(path).name] for path in batch.paths]))
    expected = (output.embeddings - wanted).square().sum(dim=1).mean()
    torch.testing.assert_close(said, expected)


def test_missing_images__left_out_of_faces_and_table(drawn_people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn_people, tmp_path / "celeba"))
    (root / "img_align_celeba" / "000003.jpg").unlink()
    model = task(root)
    quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(
        model, data(root, on_error="skip")
    )
    assert model.metadata["label_counts"][0] == [6, 5]
