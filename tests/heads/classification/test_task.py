import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights.loading import load_classifier
from mobilevision.datasets.classification.image_folder import CsvModule, ImageFolderModule
from mobilevision.datasets.synthetic.classification import SyntheticClassificationModule
from mobilevision.datasets.transforms.classification import WholeImage
from mobilevision.datasets.types import ClassificationBatch
from mobilevision.heads.classification import BatchMix, ClassificationTask, Classifier
from mobilevision.heads.distillation import Distillation, ModelTeacher, SoftTargets

NAMES = dict(enumerate("abcd"))


def make(**options) -> ClassificationTask:
    torch.manual_seed(0)
    backbone = MobileNetV1(0.25, out_strides=(32,), norm_momentum=0.3)
    return ClassificationTask(Classifier(backbone, len(NAMES)), NAMES, **options)


def batch() -> ClassificationBatch:
    images = torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(1))  # fmt: skip
    return ClassificationBatch(images, torch.arange(8) % 4, torch.arange(8), ("x.jpg",) * 8)


def test_one_batch__is_learned_by_heart() -> None:
    task, data = make(), batch()
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    for _ in range(40):
        loss = torch.stack(list(task.losses(task(data.images), data).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.eval()
    assert task(data.images).argmax(1).tolist() == data.labels.tolist()


def test_losses__of_no_images__are_zero_with_a_graph() -> None:
    task = make()
    nothing = ClassificationBatch(*(field[:0] for field in batch()))
    loss = task.losses(torch.zeros(0, len(NAMES), requires_grad=True), nothing)["labels"]
    assert loss.item() == 0
    loss.backward()


def test_decay_depthwise__false_spares_exactly_these_filters() -> None:
    def decayed(task: ClassificationTask) -> set[int]:
        optimizer = task.configure_optimizers()
        groups = optimizer.param_groups
        assert groups[0]["weight_decay"] > 0 == groups[1]["weight_decay"]
        return {id(parameter) for parameter in groups[0]["params"]}

    task, other = make(decay_depthwise=False), make()
    depthwise = {
        id(parameter) for name, parameter in other.named_parameters() if "depthwise.conv" in name
    }
    assert len(depthwise) == 13
    assert depthwise <= decayed(other)
    assert len(decayed(task)) == len(decayed(other)) - 13
    assert all(
        id(parameter) not in decayed(task)
        for name, parameter in task.named_parameters()
        if "depthwise.conv" in name
    )


def test_losses__the_teacher_speaks_in_training_only() -> None:
    teacher = ModelTeacher(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)))
    distillation = Distillation(teacher, SoftTargets(2.0), label_weight=0.25)
    distillation.prepare(4, torch.device("cpu"))
    task, data = make(distillation=distillation), batch()
    logits = task(data.images)
    plain = nn.functional.cross_entropy(logits, data.labels)
    losses = task.losses(logits, data)
    assert set(losses) == {"labels", "teacher"}
    assert torch.allclose(losses["labels"], 0.25 * plain)
    assert losses["teacher"] > 0
    task.eval()
    assert torch.allclose(task.losses(logits, data)["labels"], plain)
    assert not any("teacher" in name for name in task.state_dict())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classification") / "data"


def data_module(root: Path, **options) -> SyntheticClassificationModule:
    return SyntheticClassificationModule(
        root, train_pictures=16, val_pictures=10, picture_size_hw=(64, 64), size_hw=(64, 64),
        batch_size=8, num_workers=0, **options,
    )  # fmt: skip


def test_fit_and_test__write_measures_and_predictions(images: Path, tmp_path: Path) -> None:
    data = data_module(images)
    network = Classifier(MobileNetV1(0.25, out_strides=(32,)), data.num_classes)
    task = ClassificationTask(
        network, data.categories, loss=nn.CrossEntropyLoss(label_smoothing=0.1), mix=BatchMix(0.4)
    )
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(task, data)
    assert task.last_result is not None
    fitted = json.loads((tmp_path / "classification_metrics.json").read_text())
    assert (fitted["images"], len(fitted["per_class"])) == (10, 8)
    assert not (tmp_path / "predictions.csv").exists()
    (measured,) = trainer.test(task, data, verbose=False)
    assert set(measured) >= {"test/loss", "test/loss_labels", "test/top1", "test/top5"}
    assert measured["test/top1"] == pytest.approx(fitted["top1"])
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(lines) == 11
    wrong = sum(line.split(",")[1] != line.split(",")[2] for line in lines[1:])
    assert fitted["top1"] == pytest.approx(1 - wrong / 10)


def test_checkpoint__rebuilds_with_weights_only(tmp_path: Path) -> None:
    task = make()
    trainer = Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu", barebones=False,
                      enable_progress_bar=False, max_epochs=0)  # fmt: skip
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "t.ckpt")
    network = Classifier(MobileNetV1(0.25, out_strides=(32,)), 4)
    loaded = ClassificationTask.load_from_checkpoint(
        tmp_path / "t.ckpt", network=network, weights_only=True
    )
    assert loaded.categories == NAMES
    images = batch().images
    assert torch.equal(loaded.eval()(images), task.eval()(images))


@pytest.mark.real_data
def test_public_weights__reach_their_published_accuracy_through_the_task(
    real_data: Path, tmp_path: Path
) -> None:
    data = CsvModule(
        real_data / "imagenet_val", val="labels.csv", train="labels.csv", num_workers=0,
        categories={k: str(k) for k in range(1000)}, size_hw=(128, 128), batch_size=50,
        val_transform=WholeImage((128, 128)),
    )  # fmt: skip
    network = Classifier(
        MobileNetV1(0.25, out_strides=(32,)), 1000, pixel_mean=128.0, pixel_std=128.0
    )
    public = load_classifier(real_data / "weights" / "mobilenet_v1_0.25_128.npz", 0.25)
    network.load_state_dict(public.state_dict())
    task = ClassificationTask(network, data.categories)
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False
    )
    (measured,) = trainer.test(task, data, verbose=False)
    assert measured["test/top1"] == pytest.approx(0.5250, abs=1 / 400)  # weights/README.md


@pytest.mark.real_data
def test_fine_tuning__from_public_weights_learns_real_images(
    real_data: Path, tmp_path: Path
) -> None:
    """Dogs (classes 151 to 268 of ImageNet) from things (from 500 on), twelve images of each."""
    with (real_data / "imagenet_val" / "labels.csv").open() as file:
        rows = [(row["file"], int(row["label"])) for row in csv.DictReader(file)]
    groups = {
        "dog": [name for name, label in rows if 151 <= label <= 268][:12],
        "thing": [name for name, label in rows if label >= 500][:12],
    }
    for split in ("train", "val"):
        for group, names in groups.items():
            (tmp_path / split / group).mkdir(parents=True)
            for name in names:
                target = tmp_path / split / group / Path(name).name
                target.symlink_to((real_data / "imagenet_val" / name).resolve())
    data = ImageFolderModule(tmp_path, size_hw=(128, 128), batch_size=12, num_workers=0)
    network = Classifier(MobileNetV1(0.25, out_strides=(32,)), 2)
    weights = str(real_data / "weights" / "mobilenet_v1_0.25_128.npz")
    torch.manual_seed(0)
    task = ClassificationTask(
        network, data.categories, weights=weights, optimizer=partial(torch.optim.AdamW, lr=1e-3)
    )
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=6, accelerator="cpu", logger=False,
        check_val_every_n_epoch=6, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(task, data)
    assert task.last_result is not None
    assert task.last_result.top1 >= 0.9, "on the images that it was trained on"
