"""What a student is asked to learn from its teacher, and that it keeps nothing of it."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mobilevision.apps.cli import lightning
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.heads.detection import SSD, DetectionTask
from mobilevision.heads.detection.boxes import SSDOutput
from mobilevision.heads.detection.distillation import SSDDistillation, soft_class_losses

NAMES = {3: "cat", 7: "dog"}
SSD_PATH = "mobilevision.heads.detection.SSD"
BACKBONE_PATH = "mobilevision.backbone.MobileNetV1"


def ssd(width_mult: float = 0.25, **options) -> SSD:
    return SSD(MobileNetV1(width_mult=width_mult), num_classes=2, **options)


def save(path: Path, network: SSD, categories: dict[int, str] = NAMES, **options) -> Path:
    """Write a checkpoint in the form of the command line."""
    description = {
        "class_path": SSD_PATH,
        "init_args": {
            "backbone": {
                "class_path": BACKBONE_PATH,
                "init_args": {"width_mult": network.backbone.width_mult},
            },
            "num_classes": network.num_classes,
            **options,
        },
    }
    checkpoint = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": {
            "network": description,
            "categories": categories,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SSD]:
    seed_everything(3)
    network = ssd(0.5).eval()
    with torch.no_grad():  # so that it sees objects
        for predictor in network.predictors:
            predictor.classes.bias.copy_(3 * torch.randn(predictor.classes.bias.shape))
    return save(tmp_path_factory.mktemp("teacher") / "teacher.ckpt", network), network


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)


def prepared(path: Path, student: SSD, **options) -> SSDDistillation:
    distillation = SSDDistillation(path, **options)
    distillation.prepare(student, NAMES, torch.device("cpu"))
    return distillation


# The loss


def test_soft_class_losses__softmax__hand_calculated() -> None:
    ours, theirs = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[math.log(3.0), 0.0]]])
    # The teacher says (3/4, 1/4), the student (1/2, 1/2).
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = soft_class_losses(ours, theirs, "softmax", 1.0)
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(expected)


def test_soft_class_losses__temperature__softened_and_scaled_by_its_square() -> None:
    ours, theirs = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[2 * math.log(3.0), 0.0]]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_class_losses(ours, theirs, "softmax", 2.0).item() == pytest.approx(4 * expected)


def test_soft_class_losses__sigmoid__hand_calculated() -> None:
    ours, theirs = torch.zeros(1, 1, 2), torch.tensor([[[math.log(3.0), 0.0]]])
    # First column: 3/4 against 1/2; second: both 1/2.
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = soft_class_losses(ours, theirs, "sigmoid", 1.0)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_class_losses__gradient__that_of_the_cross_entropy(activation) -> None:
    generator = torch.Generator().manual_seed(1)
    theirs = torch.randn(2, 5, 4, generator=generator)
    ours = torch.randn(2, 5, 4, generator=generator, requires_grad=True)
    (found,) = torch.autograd.grad(soft_class_losses(ours, theirs, activation, 1.0).sum(), ours)
    if activation == "softmax":
        expected = ours.softmax(-1) - theirs.softmax(-1)
    else:
        expected = ours.sigmoid() - theirs.sigmoid()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_class_losses__extreme_logits__finite(activation) -> None:
    theirs, ours = torch.tensor([[[500.0, -500.0]]]), torch.tensor([[[-500.0, 500.0]]])
    assert torch.isfinite(soft_class_losses(ours, theirs, activation, 1.0)).all()
    assert soft_class_losses(theirs, theirs, activation, 1.0).item() == 0.0


def test_ssd_distillation__student_is_the_teacher__no_loss_and_no_gradient(
    teacher: tuple[Path, SSD],
) -> None:
    path, network = teacher
    output = network(images())
    logits, deltas = (part.detach().requires_grad_() for part in (output[1], output[0]))
    losses = prepared(path, network, temperature=3.0)(
        images(), output._replace(class_logits=logits, box_deltas=deltas)
    )
    assert set(losses) == {"soft_classes", "soft_boxes"}
    assert losses["soft_boxes"].item() == 0.0
    assert losses["soft_classes"].item() == pytest.approx(0.0, abs=1e-4)
    for gradient in torch.autograd.grad(sum(losses.values()), (logits, deltas)):
        assert gradient.abs().max() < 1e-4


def test_ssd_distillation__losses__as_a_loop_over_anchors(teacher: tuple[Path, SSD]) -> None:
    path, network = teacher
    student = ssd().eval()
    with torch.no_grad():
        output, taught = student(images()), network(images())
    losses = prepared(path, student, class_weight=2.0, box_weight=0.5, min_score=0.4)(
        images(), output
    )
    classes, boxes, seen = 0.0, 0.0, 0
    for image in range(2):
        for anchor in range(len(output.anchors)):
            theirs = taught.class_logits[image, anchor].softmax(-1)
            ours = output.class_logits[image, anchor].softmax(-1)
            classes += (theirs * (theirs / ours).log()).sum().item()
            if theirs[1:].max() >= 0.4:
                seen += 1
                boxes += F.smooth_l1_loss(
                    output.box_deltas[image, anchor], taught.box_deltas[image, anchor],
                    reduction="sum",
                ).item()  # fmt: skip
    assert 0 < seen < 2 * len(output.anchors)
    assert losses["soft_classes"].item() == pytest.approx(2.0 * classes / seen, rel=1e-4)
    assert losses["soft_boxes"].item() == pytest.approx(0.5 * boxes / seen, rel=1e-4)


def test_ssd_distillation__teacher_sees_nothing__boxes_are_left_alone(tmp_path: Path) -> None:
    student = ssd()
    path = save(tmp_path / "blind.ckpt", ssd(0.5))
    losses = prepared(path, student, min_score=0.9)(images(), student(images()))
    assert losses["soft_boxes"].item() == 0.0
    assert losses["soft_classes"].item() > 0.0


def test_ssd_distillation__gradient__to_the_student_alone(teacher: tuple[Path, SSD]) -> None:
    student = ssd().train()
    distillation = prepared(teacher[0], student)
    sum(distillation(images(), student(images())).values()).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    inside = distillation._teacher
    assert inside is not None
    assert not inside.training
    assert all(not each.requires_grad and each.grad is None for each in inside.parameters())


def test_ssd_distillation__reads_its_teacher_only_when_prepared(teacher: tuple[Path, SSD]) -> None:
    path, network = teacher
    distillation = SSDDistillation(path.with_name("absent.ckpt"))
    with pytest.raises(RuntimeError, match="prepare"):
        distillation(images(), network(images()))


# A teacher that does not fit


def test_prepare__absent_file__named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.ckpt: no such file"):
        prepared(tmp_path / "absent.ckpt", ssd())


@pytest.mark.parametrize("content", ["text", {"state_dict": {}}, {"weights": 1}])
def test_prepare__no_checkpoint_of_a_detector__named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name in ("other.ckpt", "text.ckpt"):
        with pytest.raises(WeightsError, match=rf"{name}: .*checkpoint"):
            prepared(tmp_path / name, ssd())


def test_prepare__other_classes__both_named(tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.ckpt", ssd(), {3: "cat", 7: "fox"})
    with pytest.raises(WeightsError, match=r"2 classes \(cat, fox\).*2 classes \(cat, dog\)"):
        prepared(path, ssd())


def test_prepare__other_kind_of_scores__said(tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.ckpt", ssd(), score_activation="sigmoid")
    with pytest.raises(WeightsError, match=r"sigmoid scores.*softmax scores"):
        prepared(path, ssd())


def test_call__other_anchors__counted(teacher: tuple[Path, SSD]) -> None:
    student = ssd(extra_channels=(64, 64))
    distillation = prepared(teacher[0], student)
    output = student(images())
    with pytest.raises(WeightsError, match=f"anchors and the student {len(output.anchors)}"):
        distillation(images(), output)


def test_call__anchors_elsewhere__refused(teacher: tuple[Path, SSD]) -> None:
    path, network = teacher
    output: SSDOutput = network(images())
    with pytest.raises(WeightsError, match="they have to be the same"):
        prepared(path, network)(images(), output._replace(anchors=output.anchors + 1))


@pytest.mark.parametrize(
    "options", [{"class_weight": -1}, {"box_weight": -1}, {"temperature": 0}, {"min_score": 2}]
)
def test_ssd_distillation__option_out_of_range__named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SSDDistillation("teacher.ckpt", **options)


# In a training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distillation") / "data"
    write_scenes(root, train=8, val=2, size_hw=(96, 96), seed=5, progress=False)
    return root


def test_fit__in_python__logs_checkpoints_and_optimizes_the_student_alone(
    scenes: Path, tmp_path: Path
) -> None:
    data = DetectionDataModule(scenes, size_hw=(64, 64), batch_size=4, num_workers=0)
    larger = SSD(MobileNetV1(width_mult=0.5), data.num_classes)
    path = save(tmp_path / "teacher.ckpt", larger, data.categories)
    network = SSD(MobileNetV1(width_mult=0.25), data.num_classes)
    names = set(network.state_dict())
    model = DetectionTask(network, data.categories, distillation=SSDDistillation(str(path)))
    run = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, max_epochs=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(model, datamodule=data)
    logged = run.callback_metrics
    assert {"train/loss_soft_classes", "train/loss_soft_boxes"} <= set(logged)
    assert not any(name.startswith("val/") and "soft" in name for name in logged)
    run.save_checkpoint(tmp_path / "student.ckpt")
    saved = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"network.{name}" for name in names}
    groups = run.optimizers[0].param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    inside = model.distillation._teacher  # type: ignore[union-attr]
    assert not inside.training
    for name, value in larger.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name


def test_fit__from_the_command_line__student_loads_without_its_teacher(
    scenes: Path, tmp_path: Path
) -> None:
    data = DetectionDataModule(scenes)
    path = save(
        tmp_path / "teacher.ckpt", SSD(MobileNetV1(width_mult=0.5), data.num_classes),
        data.categories,
    )  # fmt: skip
    lightning([
        "fit", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'runs'}",
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false",
        "--model=mobilevision.heads.detection.DetectionTask",
        f"--model.network={SSD_PATH}", f"--model.network.backbone={BACKBONE_PATH}",
        "--model.network.backbone.width_mult=0.25",
        "--model.distillation=mobilevision.heads.detection.SSDDistillation",
        f"--model.distillation.teacher={path}", "--model.distillation.temperature=2",
        "--trainer.callbacks+=mobilevision.apps.callbacks.averaging.RampedEMA",
        "--data=mobilevision.datasets.detection.module.DetectionDataModule",
        f"--data.root={scenes}",
        "--data.size_hw=[64, 64]", "--data.batch_size=4", "--data.num_workers=0",
    ])  # fmt: skip
    path.unlink()
    (student,) = (tmp_path / "runs").glob("version_0/checkpoints/*.ckpt")
    saved = torch.load(student, weights_only=True)
    again = DetectionTask.load_from_checkpoint(student, weights_only=True)
    assert set(again.state_dict()) == set(saved["state_dict"])
    assert isinstance(again.distillation, SSDDistillation)
    assert again.distillation.temperature == 2
