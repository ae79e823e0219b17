"""Checkpoints: written, checked and rebuilt."""

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.heads import checkpoint as module
from mobilevision.heads.checkpoint import (
    CheckpointError,
    Plan,
    allowed_classes,
    build,
    check_classes,
    class_paths,
    load_task,
    read_checkpoint,
    without_weights,
    write_checkpoint,
)
from mobilevision.heads.classification import ClassificationTask, Classifier
from mobilevision.heads.detection import SSD, DefaultBoxes, DetectionTask
from mobilevision.heads.task import ImageTask, MakeOptimizer
from mobilevision.heads.trust import is_trusted, trusted, trusting

BACKBONE = Plan(MobileNetV1, {"width_mult": 0.25, "padding": "symmetric", "norm_eps": 1e-5})
NAMES = {3: "cup", 9: "spoon"}
OLD = Path(__file__).with_name("old_checkpoints")
CLASSLESS = "face_embedding"
"""The job that has no classes; those of the others come from the data on the command line."""


def plans() -> list[tuple[type[Any], Plan]]:
    boxes = Plan(DefaultBoxes, {"aspect_ratios": [1.0, 2.0, 0.5, 3.0, 0.3333]})
    ssd = {"backbone": BACKBONE, "num_classes": 2, "anchors": boxes, "score_activation": "sigmoid"}
    classifier = {"backbone": BACKBONE, "num_classes": 2, "head_channels": 32, "norm_eps": 1e-5}
    return [(DetectionTask, Plan(SSD, ssd)), (ClassificationTask, Plan(Classifier, classifier))]


@pytest.mark.parametrize(("task", "plan"), plans(), ids=["detection", "classification"])
def test_write_checkpoint__loads_as_the_task(tmp_path: Path, task: type[Any], plan: Plan) -> None:
    network = plan.build().eval()
    path = tmp_path / "new" / "x.ckpt"
    write_checkpoint(path, task, plan, network, NAMES, (64, 96), {"source": "somebody"})
    assert [file.name for file in path.parent.iterdir()] == ["x.ckpt"]
    made = task.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert isinstance(made, task)
    assert made.categories == NAMES
    assert made.metadata["size_hw"] == [64, 96]
    assert made.metadata["provenance"] == {"source": "somebody"}
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = made.network.eval()(images), network(images)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)


def test_write_checkpoint__plan_of_another_network__refused(tmp_path: Path) -> None:
    (task, plan), _ = plans()
    network = Plan(SSD, plan.arguments | {"num_classes": 3}).build()
    with pytest.raises(ValueError, match="other parameters"):
        write_checkpoint(tmp_path / "x.ckpt", task, plan, network, NAMES, (64, 96), {})
    assert list(tmp_path.iterdir()) == []


def test_plan__as_plain__is_what_a_yaml_says() -> None:
    plain = plans()[0][1].as_plain()
    assert plain["class_path"] == "mobilevision.heads.detection.ssd.SSD"
    assert plain["init_args"]["backbone"]["class_path"].endswith(".MobileNetV1")
    assert plain["init_args"]["backbone"]["init_args"]["width_mult"] == 0.25


# --- checkpoints of before


def as_stored(value: Any) -> Any:
    """JSON with the keys of categories as numbers again."""
    if isinstance(value, dict):
        return {int(key) if key.isdigit() else key: as_stored(each) for key, each in value.items()}
    return [as_stored(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda path: path.stem)
def test_load_task__hyper_parameters_of_before__rebuilt(path: Path, tmp_path: Path) -> None:
    stored = as_stored(json.loads(path.read_text()))
    if not path.stem.startswith(CLASSLESS):
        stored["network"]["init_args"]["num_classes"] = 3
    stored["categories"] = {1: "a", 2: "b", 3: "c"}
    network = build(without_weights(stored["network"]), path)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    content = {
        "state_dict": state,
        "hyper_parameters": stored,
        "mobilevision": {"size_hw": [64, 64]},
    }
    torch.save(content, tmp_path / "old.ckpt")
    task = load_task(tmp_path / "old.ckpt", ImageTask)
    assert type(task).__name__ == stored["_class_path"].rpartition(".")[2]
    loaded = task.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert task.metadata["size_hw"] == [64, 64]
    task.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_load_task__class_that_moved__found_by_its_old_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    (task, plan), _ = plans()
    write_checkpoint(path, task, plan, plan.build(), NAMES, (64, 96), {})
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["network"]["class_path"] = "mobilevision.heads.ancient.Detector"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"network\.class_path names.*ancient"):
        load_task(path, DetectionTask)
    monkeypatch.setitem(module.RENAMED, "heads.ancient.Detector", "heads.detection.ssd.SSD")
    assert isinstance(load_task(path, DetectionTask).network, SSD)


# --- rebuilding


def written(path: Path, network: dict[str, Any] | None = None, **more: Any) -> Path:
    """A checkpoint of a small detector, with other hyper-parameters."""
    (task, plan), _ = plans()
    write_checkpoint(path, task, plan, plan.build(), NAMES, (64, 96), {})
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"].update(more)
    if network is not None:
        content["hyper_parameters"]["network"] = network
    torch.save(content, path)
    return path


def test_load_task__of_any_job_and_of_another(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt")
    assert isinstance(load_task(path, ImageTask), DetectionTask)
    with pytest.raises(CheckpointError, match=r"of a detector, and not of a classifier"):
        load_task(path, ClassificationTask)


def test_load_task__saved_again__rebuilt_again(tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}}
    task = load_task(written(tmp_path / "a.ckpt", optimizer=optimizer), DetectionTask)
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    again = load_task(tmp_path / "b.ckpt", DetectionTask)
    assert again.categories == NAMES
    assert again.make_optimizer is not None
    assert again.make_optimizer(again.parameters()).param_groups[0]["lr"] == 0.25
    assert read_checkpoint(tmp_path / "b.ckpt")["hyper_parameters"]["optimizer"] == optimizer


class Deeper(DetectionTask):
    def __init__(
        self, network: nn.Module, makers: Sequence[MakeOptimizer] = (), **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.makers = makers


class Narrower(DetectionTask):
    def __init__(self, network: nn.Module, categories: dict[int, str]) -> None:
        super().__init__(network, categories, channels_last=True)


def stored_as_plain(path: Path, **hyper_parameters: Any) -> Path:
    """A checkpoint that does not say its task, as those of tasks that Python made."""
    content = torch.load(written(path), weights_only=True)
    content["hyper_parameters"] |= hyper_parameters
    del content["hyper_parameters"]["_class_path"]
    torch.save(content, path)
    return path


def test_load_task__options_of_every_base__built_by_their_annotations(tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}}
    path = stored_as_plain(tmp_path / "a.ckpt", optimizer=optimizer, makers=[optimizer],
                           distillation=None, decay_depthwise=False, forgotten=1)  # fmt: skip
    task = load_task(path, Deeper)
    assert task.categories == NAMES
    assert task.decay_depthwise is False
    for make in (task.make_optimizer, *task.makers):
        assert make is not None
        assert make(task.parameters()).param_groups[0]["lr"] == 0.25
    assert not {"forgotten", "options"} & set(task.hparams)


def test_load_task__subclass_that_takes_less_than_its_base__given_no_more(tmp_path: Path) -> None:
    path = stored_as_plain(tmp_path / "a.ckpt", channels_last=False, decay_depthwise=False)
    task = load_task(path, Narrower)
    assert task.channels_last is True
    assert task.decay_depthwise is True


@pytest.mark.parametrize("name", ["optimizer", "lr_scheduler"])
def test_check_classes__text_for_a_function_of_the_base__refused(name: str) -> None:
    spec = {
        "class_path": "mobilevision.heads.classification.ClassificationTask",
        "init_args": {name: "shutil.rmtree"},
    }
    with pytest.raises(CheckpointError, match=rf"{name} names 'shutil\.rmtree'"):
        check_classes(spec, "here")


def test_load_task__weights_of_the_backbone_are_gone__not_asked_for(tmp_path: Path) -> None:
    features = {"model": "squeezenet1_1", "nodes": ["features.7", "features.12"]}
    backbone = {"class_path": "mobilevision.backbone.external_backbones.TorchvisionFeatures"}
    spec = {
        "class_path": "mobilevision.heads.detection.SSD",
        "init_args": {"backbone": {**backbone, "init_args": features}, "num_classes": 2},
    }
    network = build(spec, "here")
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    gone = copy.deepcopy(spec)
    gone["init_args"]["backbone"]["init_args"]["weights"] = str(tmp_path / "gone.pth")
    path = written(tmp_path / "a.ckpt", network=gone)
    content = torch.load(path, weights_only=True) | {"state_dict": state}
    torch.save(content, path)
    loaded = load_task(path, DetectionTask).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_build__lists_for_tuples_and_factories(tmp_path: Path) -> None:
    schedule = {
        "class_path": "mobilevision.heads.schedules.WarmupCosine",
        "init_args": {"warmup_steps": 3},
    }
    task = load_task(
        written(tmp_path / "a.ckpt", lr_scheduler=schedule, optimizer=None), DetectionTask
    )
    function = task.make_schedule.function  # type: ignore[union-attr]
    assert isinstance(function, partial)
    assert function.keywords == {"warmup_steps": 3}
    features = {"model": "squeezenet1_1", "nodes": ["features.7"]}
    made = build(
        {
            "class_path": "mobilevision.backbone.external_backbones.TorchvisionFeatures",
            "init_args": features,
        },
        "here",
    )
    assert made(torch.zeros(1, 3, 64, 64))[0].ndim == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds no checkpoint but a list"),
        ({"hyper_parameters": [1]}, "no table of names"),
        ({"state_dict": {}, "hyper_parameters": {}}, "use from_network"),
        ({"state_dict": {}}, "use from_network"),
    ],
)
def test_load_task__content_of_another_kind__said(
    content: Any, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_task(tmp_path / "a.ckpt", DetectionTask)


def test_load_task__absent_and_damaged__said(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(CheckpointError, match=r"a\.ckpt: no such file"):
        load_task(path, DetectionTask)
    whole = written(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"a\.ckpt: not a checkpoint that can be read"):
        load_task(path, DetectionTask)


def test_load_task__arguments_that_do_not_fit__said(tmp_path: Path) -> None:
    backbone = {"class_path": "mobilevision.backbone.MobileNetV1"}
    arguments = {"backbone": backbone, "num_classes": 2, "nonsense": 1}
    spec = {"class_path": "mobilevision.heads.detection.SSD", "init_args": arguments}
    with pytest.raises(CheckpointError, match=r"can be rebuilt.*nonsense"):
        load_task(written(tmp_path / "a.ckpt", network=spec), DetectionTask)


# --- the list


def test_allowed_classes__every_class_that_our_recipes_name_in_a_model() -> None:
    named = set()
    for file in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")):
        named |= set(class_paths(yaml.safe_load(file.read_text())["model"]))
    assert len(named) > 20
    for name in named:
        check_classes({"class_path": name}, "here")


def test_allowed_classes__hold_no_function_and_nothing_that_reads_a_file_when_it_is_made() -> None:
    names = {each.__name__ for each in allowed_classes()}
    assert {"SSD", "MobileNetV1", "ArcFace", "ATSSAssigner", "WarmupCosine", "AdamW"} <= names
    assert not names & {"TensorFlowSSD", "SlimFile", "FileTensors", "Linear", "Popen"}
    assert all(isinstance(each, type) for each in allowed_classes())


def test_trusting__ends_with_the_block_and_covers_what_is_inside() -> None:
    with trusting(["a.b"]), trusting(["c"]):
        assert trusted() == ("a.b", "c")
        assert is_trusted("a.b")
        assert is_trusted("a.b.C")
        assert is_trusted("c.d.e")
        assert not is_trusted("a")
        assert not is_trusted("a.bc")
    assert trusted() == ()


def test_check_classes__trusted_but_absent__said() -> None:
    with trusting(["no_such_package"]), pytest.raises(CheckpointError, match="cannot be imported"):
        check_classes({"class_path": "no_such_package.A"}, "here")
