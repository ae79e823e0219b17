from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mobilevision.apps.cli import lightning
from mobilevision.apps.main import main
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.faces.attributes import CelebAModule
from mobilevision.datasets.faces.crops import FaceCrop
from mobilevision.datasets.vectors import read_vectors
from mobilevision.heads.checkpoint import load_task
from mobilevision.heads.face_attributes import AttributeTask, AttributeTeacher


def settings(root: Path, out: Path) -> dict:
    return {
        "seed_everything": 1,
        "trainer": {
            "default_root_dir": str(out),
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "class_path": "mobilevision.heads.face_attributes.AttributeTask",
            "init_args": {
                "network": {
                    "class_path": "mobilevision.heads.face_attributes.AttributeNetwork",
                    "init_args": {
                        "backbone": {
                            "class_path": "mobilevision.backbone.MobileNetV1",
                            "init_args": {"width_mult": 0.25, "out_strides": [32]},
                        }
                    },
                }
            },
        },
        "data": {
            "class_path": "mobilevision.datasets.faces.attributes.CelebAModule",
            "init_args": {
                "root": str(root), "size_hw": [40, 32], "batch_size": 4, "num_workers": 0
            },
        },
    }  # fmt: skip


def fit(content: dict, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    (out / "c.yaml").write_text(yaml.safe_dump(content))
    lightning(["fit", "-c", str(out / "c.yaml")])
    return next((out / "version_0" / "checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def checkpoint(drawn_celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of torchvision, its weights from a file that is gone by now."""
    out = tmp_path_factory.mktemp("teacher")
    content = settings(drawn_celeba, out)
    from torchvision.models import get_model

    weights = out / "squeezenet.pth"
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), weights)
    network = content["model"]["init_args"]["network"]["init_args"]
    network["backbone"] = {
        "class_path": "mobilevision.backbone.external_backbones.TorchvisionFeatures",
        "init_args": {"model": "squeezenet1_1", "nodes": ["features.12"], "weights": str(weights)},
    }
    path = fit(content, out)
    weights.unlink()
    return path


def test_load_task__weights_of_the_backbone_gone__rebuilt(checkpoint: Path) -> None:
    task = load_task(checkpoint, AttributeTask)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    assert task.metadata["size_hw"] == [40, 32]
    assert list(task.categories.values()) == ["Red_Face", "Wearing_Hat", "Never"]


def test_attribute_teacher__says_the_logits_of_its_network(checkpoint: Path) -> None:
    teacher = AttributeTeacher(checkpoint)
    teacher.prepare(3, torch.device("cpu"))
    images = torch.randint(0, 256, (2, 3, 80, 64), dtype=torch.uint8)
    network = load_task(checkpoint, AttributeTask).network.eval()
    small = torch.nn.functional.interpolate(
        images.float(), (40, 32), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = network(small).logits
    assert torch.allclose(teacher(images, ["a", "b"]), expected, atol=1e-5)
    assert teacher.attributes == ("Red_Face", "Wearing_Hat", "Never")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_load_task__foreign_file__named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(WeightsError, match="no such file"):
        load_task(path, AttributeTask)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint that can be read"):
        load_task(path, AttributeTask)


def test_fit__from_a_teachers_checkpoint__and_its_checkpoint_needs_no_teacher(
    checkpoint: Path, drawn_celeba: Path, tmp_path: Path
) -> None:
    teacher = {
        "class_path": "mobilevision.heads.face_attributes.AttributeTeacher",
        "init_args": {"checkpoint": str(checkpoint)},
    }
    content = with_teacher(settings(drawn_celeba, tmp_path / "student"), teacher)
    student = fit(content, tmp_path / "student")
    away = checkpoint.rename(checkpoint.with_suffix(".away"))
    task = load_task(student, AttributeTask)
    away.rename(checkpoint)
    assert not any("teacher" in name for name in task.state_dict())


def test_fit__teacher_of_other_attributes__refused(
    checkpoint: Path, drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {
        "class_path": "mobilevision.heads.face_attributes.AttributeTeacher",
        "init_args": {"checkpoint": str(checkpoint)},
    }
    content = with_teacher(settings(drawn_celeba, tmp_path / "student"), teacher)
    content["data"]["init_args"]["attributes"] = ["Wearing_Hat", "Red_Face", "Never"]
    with pytest.raises(SystemExit):
        fit(content, tmp_path / "student")
    assert "the teacher predicts Red_Face" in capsys.readouterr().err


def test_cache_logits__then_learn_from_the_table_alone(
    checkpoint: Path, drawn_celeba: Path, tmp_path: Path
) -> None:
    content = settings(drawn_celeba, tmp_path / "student")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    table = tmp_path / "logits.npz"
    assert main(["cache-logits", "-c", str(tmp_path / "c.yaml"), "--teacher", str(checkpoint),
                 "--out", str(table)]) == 0  # fmt: skip
    cached = read_vectors(table)
    assert cached.files.tolist()[0] == "img_align_celeba/000001.jpg"
    dataset = CelebAModule(drawn_celeba, size_hw=(40, 32)).dataset("train", FaceCrop((40, 32)))
    image = torch.from_numpy(dataset[0].image).permute(2, 0, 1)[None]
    with torch.no_grad():
        said = load_task(checkpoint, AttributeTask).network.eval()(image).logits
    assert np.allclose(cached.vectors[0], said.numpy(), atol=1e-4)
    teacher = {
        "class_path": "mobilevision.heads.distillation.CachedTeacher",
        "init_args": {"table": str(table), "root": str(drawn_celeba)},
    }
    student = with_teacher(content, teacher, label_weight=0.0)
    assert fit(student, tmp_path / "student").is_file()


def test_cache_logits__other_attributes__refused(
    checkpoint: Path, drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = settings(drawn_celeba, tmp_path)
    content["data"]["init_args"]["attributes"] = ["Wearing_Hat", "Red_Face", "Never"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as stopped:
        main(["cache-logits", "-c", str(tmp_path / "c.yaml"), "--teacher", str(checkpoint),
              "--out", str(tmp_path / "t.npz")])  # fmt: skip
    assert stopped.value.code == 2
    assert "the teacher predicts Red_Face" in capsys.readouterr().err


def with_teacher(content: dict, teacher: dict, label_weight: float = 0.5) -> dict:
    content["model"]["init_args"]["distillation"] = {
        "class_path": "mobilevision.heads.distillation.Distillation",
        "init_args": {
            "teacher": teacher,
            "objective": {"class_path": "mobilevision.heads.distillation.SoftLabels"},
            "label_weight": label_weight,
        },
    }
    return content
