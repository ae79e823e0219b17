import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.attributes import CelebAModule
from mobilevision.datasets.faces.crops import FaceCrop
from mobilevision.datasets.types import AttributeBatch
from mobilevision.heads.distillation import Distillation, ModelTeacher, SoftLabels
from mobilevision.heads.face_attributes import (
    AttributeNetwork,
    AttributeTask,
    ClassBalanced,
    FaceMixup,
)
from mobilevision.heads.face_attributes.task import landmark_errors

NAMES = {0: "Red_Face", 1: "Wearing_Hat", 2: "Never"}


def small_task(landmarks: bool = True, **options) -> AttributeTask:
    torch.manual_seed(0)
    network = AttributeNetwork(MobileNetV1(0.25, out_strides=(32,)), 3, landmarks=landmarks)
    return AttributeTask(network, NAMES, **options)


def a_batch(labels: list[list[int]]) -> AttributeBatch:
    torch.manual_seed(1)
    count = len(labels)
    return AttributeBatch(
        torch.randint(0, 256, (count, 3, 64, 48), dtype=torch.uint8),
        torch.tensor(labels, dtype=torch.int8),
        torch.rand(count, 5, 2) * 40 + 4,
        torch.full((count,), -1),
        torch.arange(count),
        tuple(f"{number}.jpg" for number in range(count)),
    )


def quiet_trainer(root: Path, **options) -> Trainer:
    return Trainer(default_root_dir=root, logger=False, enable_progress_bar=False,
                   enable_model_summary=False, accelerator="cpu", **options)  # fmt: skip


def data(root: Path) -> CelebAModule:
    return CelebAModule(root, size_hw=(40, 32), batch_size=4, num_workers=0)


def test_overfit__one_batch__labels_and_landmarks_learned() -> None:
    task, batch = small_task(), a_batch([[1, 0, -1], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
    task.train()
    optimizer = torch.optim.Adam(task.parameters(), lr=5e-3)
    for _ in range(50):
        losses = task.losses(task(batch.images), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"labels", "landmarks"}
    assert losses["labels"].item() < 0.05
    assert losses["landmarks"].item() < 0.05


def test_losses__distillation__parts_by_hand() -> None:
    class Says(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 3)

    teacher = ModelTeacher(Says)
    mixed = small_task(distillation=Distillation(teacher, SoftLabels(), label_weight=0.25))
    assert mixed.distillation is not None
    mixed.distillation.prepare(3, torch.device("cpu"))
    batch = a_batch([[1, 0, -1], [-1, -1, -1]])
    mixed.train()
    output = mixed(batch.images)
    both = mixed.losses(output, batch)
    assert set(both) == {"labels", "landmarks", "teacher"}
    mixed.eval()
    alone = mixed.losses(output, batch)
    assert set(alone) == {"labels", "landmarks"}  # the teacher takes part in training only
    assert both["labels"].item() == pytest.approx(0.25 * alone["labels"].item())
    # Kullback-Leibler divergence from one half to the student's probability, mean over labels.
    said = output.logits.sigmoid()
    divergence = -0.5 * (2 * said).log() - 0.5 * (2 * (1 - said)).log()
    assert both["teacher"].item() == pytest.approx(divergence.mean().item(), rel=1e-4)


def test_fit__objective_of_one_class_of_many__refused(drawn_celeba: Path, tmp_path: Path) -> None:
    task = small_task(distillation=Distillation(ModelTeacher(torch.nn.Identity)))
    with pytest.raises(DataError, match=r"Name mobilevision\.heads\.distillation\.SoftLabels"):
        quiet_trainer(tmp_path, max_steps=1).fit(task, data(drawn_celeba))


def test_fit__mixup__blends_training_faces_alone(drawn_celeba: Path, tmp_path: Path) -> None:
    task = small_task(mixup=FaceMixup(alpha=1.0))
    seen: list[tuple[bool, torch.dtype, bool]] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        whole = bool((inputs[0].float() % 1 == 0).all())
        seen.append((module.training, inputs[0].dtype, whole))

    task.network.register_forward_pre_hook(look)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, data(drawn_celeba))
    assert set(seen) == {(True, torch.float32, False), (False, torch.uint8, True)}
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_losses__unlabeled_images__only_the_teacher_is_left() -> None:
    task, batch = small_task(landmarks=False), a_batch([[-1, -1, -1]])
    assert task.losses(task(batch.images), batch)["labels"].item() == 0


def test_fit_and_test__thresholds_and_files(drawn_celeba: Path, tmp_path: Path, capsys) -> None:
    task = small_task(threshold_criterion="accuracy", groups=("Wearing_Hat",))
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, data(drawn_celeba))
    # Six validation images are too few to choose thresholds by.
    assert task.thresholds == {}
    assert task.metadata["thresholds_from"] == "celeba val, accuracy"
    assert task.metadata["label_counts"] == [[6, 6], [4, 8], [12, 0]]
    assert task.metadata["size_hw"] == [40, 32]
    assert {"val/loss", "val/mean_ap", "val/mean_accuracy", "val/mean_balanced_accuracy"} <= set(
        trainer.callback_metrics
    )
    task.metadata["thresholds"] = {"Red_Face": 0.0}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = small_task(groups=("Wearing_Hat",))
    quiet_trainer(tmp_path).test(other, data(drawn_celeba), ckpt_path=tmp_path / "a.ckpt",
                                 weights_only=True, verbose=False)  # fmt: skip
    content = json.loads((tmp_path / "attribute_metrics.json").read_text())
    assert content["dataset"] == "celeba test"
    assert content["images"] == 6
    assert content["without_ap"] == ["Never"]
    assert content["per_attribute"]["Red_Face"]["threshold"] == 0.0
    assert content["per_attribute"]["Red_Face"]["accuracy_at_threshold"] == 0.5
    assert set(content["groups"]["Wearing_Hat"]) == {"yes", "no"}
    assert 0 < content["landmark_error"] < 5
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 7
    assert "the hardest first" in capsys.readouterr().out


def test_validation__enough_images__chooses_thresholds(
    drawn_celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilevision.heads.face_attributes.average_precision.FEWEST", 2)
    task = small_task()
    quiet_trainer(tmp_path, max_epochs=1).fit(task, data(drawn_celeba))
    assert set(task.thresholds) == {"Red_Face", "Wearing_Hat"}
    result = task.last_result
    assert result is not None
    assert result.per_attribute["Red_Face"].threshold == task.thresholds["Red_Face"]


def test_class_balanced__counts_come_with_the_checkpoint(
    drawn_celeba: Path, tmp_path: Path
) -> None:
    task = small_task(loss=ClassBalanced())
    trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(task, data(drawn_celeba))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = small_task(loss=ClassBalanced())
    measured = quiet_trainer(tmp_path).validate(
        other, data(drawn_celeba), ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False
    )
    assert measured[0]["val/loss"] == pytest.approx(trainer.callback_metrics["val/loss"].item())


def test_checkpoint__of_other_attributes__refused(drawn_celeba: Path, tmp_path: Path) -> None:
    task = small_task()
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(task, data(drawn_celeba))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = AttributeTask(small_task().network, {0: "Wearing_Hat", 1: "Red_Face", 2: "Never"})
    with pytest.raises(WeightsError, match="checkpoint is of the attributes Red_Face"):
        quiet_trainer(tmp_path).test(other, data(drawn_celeba), ckpt_path=tmp_path / "a.ckpt",
                                     weights_only=True, verbose=False)  # fmt: skip


def test_resume__in_the_middle__same_weights(drawn_celeba: Path, tmp_path: Path) -> None:
    whole = small_task()
    quiet_trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(whole, data(drawn_celeba))
    first = small_task()
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0)
    trainer.fit(first, data(drawn_celeba))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    second = small_task()
    quiet_trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(
        second, data(drawn_celeba), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_landmark_errors__hand_calculated() -> None:
    landmarks = torch.tensor([[[10.0, 10.0], [30.0, 10.0], [20.0, 20.0], [12.0, 30.0],
                               [28.0, 30.0]]])  # fmt: skip
    said = landmarks.clone()
    said[0, 0] += torch.tensor([3.0, 4.0])
    assert landmark_errors(said, landmarks).item() == pytest.approx(5 / 5 / 20)
    assert landmark_errors(said, torch.full_like(landmarks, torch.nan)).isnan().all()


def test_face_crop__evaluation_is_not_random(drawn_celeba: Path) -> None:
    dataset = CelebAModule(drawn_celeba, size_hw=(40, 32)).dataset("val", FaceCrop((40, 32)))
    assert (dataset[0].image == dataset[0].image).all()
