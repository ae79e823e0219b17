"""Options that a base class has: known to the command line, to checkpoints and to Python."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import torch
import yaml
from docstring_parser import parse
from lightning import LightningDataModule
from lightning.pytorch import LightningModule

from mobilevision.apps.cli import lightning
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.image_module import ImageDataModule
from mobilevision.datasets.synthetic.module import SyntheticDataModule
from mobilevision.heads.classification import Classifier
from mobilevision.heads.evaluation import EvaluatedTask
from mobilevision.heads.face_attributes.task import DescribingTask
from mobilevision.heads.task import ImageTask

BASES = {ImageTask, EvaluatedTask, DescribingTask, ImageDataModule}
"""What nobody names on a command line."""


def every_class() -> list[type]:
    """Every task and every data module of the package."""
    found = set()
    for name in ("mobilevision.heads", "mobilevision.datasets"):
        for each in walk_packages(import_module(name).__path__, f"{name}."):
            members = vars(import_module(each.name)).values()
            found |= {each for each in members if inspect.isclass(each)}
    kinds = (ImageTask, ImageDataModule)
    return sorted((each for each in found - BASES if issubclass(each, kinds)), key=path_of)


def path_of(made: type) -> str:
    return f"{made.__module__}.{made.__qualname__}"


CLASSES = every_class()
TASKS = [each for each in CLASSES if issubclass(each, LightningModule)]


def options_of(made: type) -> dict[str, inspect.Parameter]:
    taken = inspect.signature(made.__init__).parameters  # type: ignore[misc]
    return {
        name: each
        for name, each in taken.items()
        if name != "self" and each.kind is not inspect.Parameter.VAR_KEYWORD
    }


def sentences_of(made: type) -> dict[str, str]:
    said = parse(made.__doc__ or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in said}


def help_of(made: type, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Option -> its help in one line, as the command line prints it."""
    group = "model" if issubclass(made, LightningModule) else "data"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        lightning(["fit", f"--{group}.help", path_of(made)])
    assert stopped.value.code == 0
    parts = re.split(rf"^  --{group}\.(\S+)", capsys.readouterr().out, flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {name: " ".join(text.split()) for name, text in pairs if not name.endswith(".help")}


def test_every_class__all_jobs__found() -> None:
    assert len(TASKS) == 7
    assert len(CLASSES) - len(TASKS) >= 15
    assert all(issubclass(each, LightningModule | LightningDataModule) for each in CLASSES)


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_help__every_task_and_data_module__lists_all_options(
    made: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # no line is broken, not even at a hyphen
    shown = help_of(made, capsys)
    base = ImageTask if issubclass(made, ImageTask) else ImageDataModule
    sentences: dict[str, str] = {}
    for each in reversed(made.__mro__):
        sentences |= sentences_of(each) if issubclass(each, base) else {}
    for name, option in (options_of(base) | options_of(made)).items():
        assert sentences[name] in shown[name]
        if option.default is inspect.Parameter.empty:
            assert "(required, " in shown[name]
        else:
            default = "null" if option.default is None else option.default
            assert f"default: {default}" in shown[name]
    for name, text in shown.items():
        assert re.search(r"\w.* \((required, )?type: ", text), f"{name} has no sentence of help"


@pytest.mark.parametrize("made", TASKS, ids=lambda made: made.__name__)
def test_task__from_python__has_and_saves_the_common_options(made: type[Any]) -> None:
    given = {"weights": "x.npz", "channels_last": True, "decay_depthwise": False}
    classes = {"categories": {1: "cup", 2: "spoon"}} if "categories" in options_of(made) else {}
    network = Classifier(MobileNetV1(0.25), 2)
    task = made(network, **classes, **given)
    assert {name: getattr(task, name) for name in given} == given
    bases = [each for each in made.__mro__ if issubclass(each, ImageTask)]
    options = {name for each in bases for name in options_of(each)} - {"network"}
    assert set(task.hparams) == options
    assert {name: task.hparams[name] for name in given | classes} == given | classes


@pytest.mark.parametrize("made", TASKS, ids=lambda made: made.__name__)
def test_task__option_that_there_is_not__refused_by_name(made: type[Any]) -> None:
    classes = {"categories": {}} if "categories" in options_of(made) else {}
    with pytest.raises(TypeError, match="unexpected keyword argument 'wieghts'"):
        made(torch.nn.Identity(), **classes, wieghts="x.npz")


def test_data_module__option_that_there_is_not__refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        SyntheticDataModule(tmp_path, batchsize=3)


@pytest.mark.parametrize(("part", "name"), [("model", "wieghts"), ("data", "batchsize")])
def test_fit__option_that_there_is_not__refused_by_name(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, name: str
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({part: {"init_args": {name: "x"}}}))
    with pytest.raises(SystemExit) as stopped:
        lightning(["fit", "-c", str(recipe), "-c", str(other)])
    assert stopped.value.code == 2
    assert f"Option '{name}' is not accepted" in capsys.readouterr().err


def test_fit__option_of_the_base__in_config_and_checkpoint(recipe: Path, tmp_path: Path) -> None:
    lightning(["fit", "-c", str(recipe), "--model.decay_depthwise=false",
               "--trainer.max_epochs=1"])  # fmt: skip
    run = tmp_path / "runs" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    stored = content["hyper_parameters"]
    saved = {name: value for name, value in stored.items() if not name.startswith("_")}
    assert set(config) | {"categories"} == set(saved)
    assert "options" not in saved
    for options in (config, saved):
        assert options["decay_depthwise"] is False
        assert options["channels_last"] is False
    task = ImageTask.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert task.decay_depthwise is False
    assert task.hparams["decay_depthwise"] is False
