"""Checkpoints of a stranger, given to everything that opens a checkpoint: nothing of them runs."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import DataLoader

from mobilevision import apps, datasets
from mobilevision.apps.cli import lightning
from mobilevision.apps.faces.verify import store_threshold
from mobilevision.apps.main import COMMANDS, TRAINING, main
from mobilevision.apps.training.runs import AtomicCheckpointIO, ResumableTrainer
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.image_module import ImageDataModule
from mobilevision.heads.checkpoint import allowed_classes
from mobilevision.heads.detection import SSD, DetectionTask, SSDDistillation
from mobilevision.heads.distillation import Teacher
from mobilevision.heads.finetuning import start_from
from mobilevision.heads.task import ImageTask

EVIL = "hostile_payload"
"""A module whose import and whose every member leave a mark; nothing may import it."""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that appears where something of a hostile checkpoint was run."""
    folder, path = tmp_path / "packages", tmp_path / "mark"
    folder.mkdir()
    (folder / f"{EVIL}.py").write_text(
        f"open({str(path)!r}, 'w')\nfrom torch.nn import Identity as Network\nmake = dict\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield path
    sys.modules.pop(EVIL, None)


def popen(mark: Path) -> dict[str, Any]:
    arguments = {"args": f"touch {mark}", "shell": True}
    return {"class_path": "subprocess.Popen", "init_args": arguments}


def linear(**arguments: Any) -> dict[str, Any]:
    plain = {"in_features": 1, "out_features": 1}
    return {"class_path": "torch.nn.Linear", "init_args": {**plain, **arguments}}


def teacher(network: Any, **options: Any) -> dict[str, Any]:
    model = {
        "class_path": "mobilevision.heads.distillation.ModelTeacher",
        "init_args": {"network": network, "options": options},
    }
    return {
        "class_path": "mobilevision.heads.distillation.Distillation",
        "init_args": {"teacher": model},
    }


def inside(**changes: Any) -> Callable[[dict, Path], None]:
    """Change arguments of the network."""
    return lambda content, _: content["network"]["init_args"].update(changes)


def outside(**changes: Any) -> Callable[[dict, Path], None]:
    """Change arguments of the task."""
    return lambda content, _: content.update(changes)


def with_mark(change: Callable[[Path], dict[str, Any]]) -> Callable[[dict, Path], None]:
    return lambda content, mark: content.update(change(mark))


HOSTILE: dict[str, Callable[[dict, Path], None]] = {
    "in an untyped argument of a layer": with_mark(
        lambda mark: {"network": linear(device=popen(mark))}
    ),
    "as the network": with_mark(lambda mark: {"network": popen(mark)}),
    "a harmless class that is not on the list": outside(network=linear()),
    "a module that is imported": inside(backbone={"class_path": f"{EVIL}.Network"}),
    "in dict_kwargs": lambda content, mark: content["network"].update(
        dict_kwargs={"anything": popen(mark)}
    ),
    "in a list": lambda content, mark: content["network"]["init_args"].update(
        postprocess=[1, [popen(mark)]]
    ),
    "in a tuple": lambda content, mark: content.update(anything=(1, (popen(mark),))),
    "in a plain table": lambda content, mark: content["categories"].update({7: popen(mark)}),
    "in arguments of arguments": lambda content, mark: content["network"]["init_args"].update(
        anchors={
            "class_path": "mobilevision.heads.detection.DefaultBoxes",
            "init_args": {"aspect_ratios": [popen(mark)]},
        }
    ),
    "beside a class that is on the list": lambda content, mark: content["network"].update(
        more={"more": popen(mark)}
    ),
    "in what the task does not take": lambda content, mark: content.update(more=popen(mark)),
    "as the task": outside(_class_path=f"{EVIL}.Network"),
    "a function as the task": outside(_class_path="os.system", command="true"),
    "as what makes the task": outside(_instantiator=f"{EVIL}.make"),
    "as an optimizer": lambda content, mark: content.update(optimizer=popen(mark)),
    "text for an optimizer": outside(optimizer=f"{EVIL}.make"),
    "text for a function of a schedule": outside(
        lr_scheduler={
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": f"{EVIL}.make"},
        }
    ),
    "texts for functions of a schedule": outside(
        lr_scheduler={
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": [f"{EVIL}.make"]},
        }
    ),
    "a function of torch": outside(
        network={"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "a"}}
    ),
    "torch.load": outside(network={"class_path": "torch.load", "init_args": {"f": "a"}}),
    "a module that one of ours imports": outside(
        network={"class_path": "mobilevision.heads.task.warnings.warn"}
    ),
    "a class of ours that is not on the list": outside(
        network={
            "class_path": "mobilevision.apps.benchmark.processes.Worker",
            "init_args": {"opening": ["a"], "image": "a", "threads": 1, "folder": "."},
        }
    ),
    "a class of ours that reads files": outside(
        network={
            "class_path": "mobilevision.heads.detection.weights.TensorFlowSSD",
            "init_args": {"path": "a"},
        }
    ),
    "a name beside the package's": outside(network={"class_path": "mobilevision_heads.Network"}),
    "a builtin": outside(network={"class_path": "builtins.eval", "init_args": {"source": "1"}}),
    "a name without a module": outside(network={"class_path": "Popen"}),
    "a class path that is no text": lambda content, mark: content["network"].update(
        class_path=popen(mark)
    ),
    "a program as a teacher": outside(distillation=teacher("os.system", command="true")),
    "a module as a teacher": outside(distillation=teacher(f"{EVIL}.make")),
    "in a teacher's options": lambda content, mark: content.update(
        distillation=teacher("torchvision.models.resnet18", weights=popen(mark))
    ),
    "YAML as text": with_mark(
        lambda mark: {"network": f"{{class_path: subprocess.Popen, init_args: {popen(mark)}}}"}
    ),
}


OWN_BACKBONE = inside(backbone={"class_path": "my_package.Own", "init_args": {"width_mult": 0.25}})

MADE_OF = sorted(set(HOSTILE) - {"YAML as text"})
"""Those that are hostile where nothing is made of them, and the rest is nothing but text."""


def write(path: Path, change: Callable[[dict, Path], None] | None, mark: Path) -> Path:
    """Write the checkpoint of a detector, hostile where there is a change."""
    backbone = {
        "class_path": "mobilevision.backbone.MobileNetV1",
        "init_args": {"width_mult": 0.25},
    }
    spec = {
        "class_path": "mobilevision.heads.detection.SSD",
        "init_args": {"backbone": backbone, "num_classes": 2},
    }
    hyper_parameters = {
        "network": copy.deepcopy(spec),
        "categories": {1: "cup", 2: "spoon"},
        "_class_path": "mobilevision.heads.detection.task.DetectionTask",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }
    if change is not None:
        change(hyper_parameters, mark)
    weights = {}  # a hostile file is refused before anybody looks at them
    if change is None or change is OWN_BACKBONE:
        weights = SSD(MobileNetV1(width_mult=0.25), num_classes=2).state_dict()
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"network.{key}": value for key, value in weights.items()},
        "hyper_parameters": hyper_parameters,
        "mobilevision": {"format": 1, "size_hw": [64, 64]},
    }
    torch.save(content, path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    return path


def refuses(call: Callable[[], Any], checkpoint: Path, mark: Path) -> str:
    """Call it; make sure that it refuses the file and nothing happens; the message."""
    folder = checkpoint.parent
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    with pytest.raises((DataError, WeightsError)) as caught:
        call()
    after = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    assert not mark.exists()
    assert EVIL not in sys.modules
    assert str(checkpoint) in str(caught.value)
    return str(caught.value)


def says_why(message: str) -> bool:
    """Whether a message is about what a file names or, for text, about what it is no model of."""
    return " names " in message or "checkpoint of a" in message


# --- from Python

NAMES = [name for names in apps.MODULES.values() for name in names]
LOADERS = {name: getattr(apps, name).load for name in NAMES if hasattr(getattr(apps, name), "load")}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("loader", LOADERS)
def test_load__hostile__refused(loader: str, hostile: str, tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    assert says_why(refuses(lambda: LOADERS[loader](path), path, mark))


def test_load__every_class_that_loads__is_looked_at() -> None:
    assert {"Detector", "FaceAnalyzer", "FaceAttributes", "FaceEmbedder", "Geolocator"} <= set(
        LOADERS
    )


TASKS = sorted(
    (x for x in allowed_classes() if issubclass(x, ImageTask) and not x.__subclasses__()),
    key=lambda x: x.__name__,
)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("task", TASKS)
def test_load_from_checkpoint__hostile__refused(
    task: type[ImageTask], hostile: str, tmp_path: Path, mark: Path
) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    assert says_why(refuses(lambda: task.load_from_checkpoint(path), path, mark))


def test_load_from_checkpoint__as_a_pickle__is_not_to_be_had(tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", None, mark)
    with pytest.raises(ValueError, match="weights_only"):
        TASKS[0].load_from_checkpoint(path, weights_only=False)


TEACHERS = [
    each
    for each in allowed_classes()
    if issubclass(each, Teacher) and "checkpoint" in inspect.signature(each).parameters
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_teachers__hostile__refused(hostile: str, tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    assert len(TEACHERS) == 2
    cpu = torch.device("cpu")
    for made in TEACHERS:
        assert says_why(refuses(lambda made=made: made(path).prepare(2, cpu), path, mark))
    refuses(lambda: SSDDistillation(path).prepare(torch.nn.Identity(), {1: "cup"}, cpu), path, mark)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_start_from__hostile__refused(hostile: str, tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    network = SSD(MobileNetV1(width_mult=0.25), num_classes=2)
    message = refuses(lambda: start_from(network, ["cup", "spoon"], path), path, mark)
    assert hostile not in MADE_OF or says_why(message)


@pytest.mark.parametrize("hostile", MADE_OF)
def test_store_threshold__hostile__refused(hostile: str, tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    message = refuses(lambda: store_threshold(path, None), path, mark)  # type: ignore[arg-type]
    assert says_why(message)


def test_load__a_pickle_that_runs__refused(tmp_path: Path, mark: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(mark), "w"))

    path = tmp_path / "a.ckpt"
    torch.save({"hyper_parameters": Payload()}, path)
    for load in LOADERS.values():
        message = refuses(lambda load=load: load(path), path, mark)
        assert "not a checkpoint that can be read safely" in message


def test_data_modules__hostile__are_not_made_from_checkpoints(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "a.ckpt"
    operation = {"class_path": "albumentations.Lambda", "init_args": {"image": f"{EVIL}.make"}}
    crop = {
        "class_path": "mobilevision.datasets.faces.crops.RandomFaceCrop",
        "init_args": {"size_hw": (40, 32), "photometric": operation},
    }
    hyper_parameters = {
        "root": str(tmp_path),
        "train_transform": crop,
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }
    content = {"datamodule_hyper_parameters": hyper_parameters, "state_dict": {}}
    torch.save({**content, "pytorch-lightning_version": "2.6.0"}, path)
    for name in [each.name for each in walk_packages(datasets.__path__, f"{datasets.__name__}.")]:
        import_module(name)
    waiting, seen = [ImageDataModule], []
    while waiting:
        seen.append(waiting.pop())
        waiting += seen[-1].__subclasses__()
    assert len(seen) > 12
    for module in seen:
        with pytest.raises(DataError, match="not made from checkpoints"):
            module.load_from_checkpoint(path)
    assert not mark.exists()
    assert EVIL not in sys.modules


# --- from the shell

LINES = {
    "detect": "IMAGE --model CKPT --out OUT",
    "embed": "IMAGE --model CKPT --out OUT.parquet --aligned",
    "attributes": "IMAGE --model CKPT --out OUT.csv --aligned",
    "analyze": "IMAGE --model CKPT --out OUT.csv --aligned",
    "classify": "IMAGE --model CKPT",
    "gallery enroll": "Ada IMAGE --gallery OUT --model CKPT --aligned",
    "gallery identify": "IMAGE --gallery GALLERY --model CKPT --aligned",
    "verify": "--pairs PAIRS --images FACES --model CKPT",
    "locate": "IMAGE --model CKPT",
    "cost": "--ckpt CKPT",
    "cache-logits": "-c CONFIG --teacher CKPT --out OUT.npz",
    "export": "--ckpt CKPT --format exported-program --out OUT.pt2",
    "benchmark": "--model CKPT --engine eager --rounds 1 --starts 1 --out OUT",
}
"""Command -> what it is given; a new command that opens checkpoints has to be added here."""


def options(path: str) -> set[str]:
    parser = ArgumentParser(exit_on_error=False)
    COMMANDS[path].add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_commands__every_one_that_opens_a_checkpoint__is_tested_and_can_be_told_to_trust() -> None:
    opening = {path for path in COMMANDS if options(path) & {"--model", "--ckpt", "--teacher"}}
    assert opening == set(LINES)
    assert all("--trust" in options(path) for path in opening)


@pytest.mark.parametrize("hostile", list(HOSTILE)[::-1][:21])
@pytest.mark.parametrize("command", LINES)
def test_command__hostile__refused(
    command: str,
    hostile: str,
    tmp_path: Path,
    mark: Path,
    image: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    apps.Gallery.create(tmp_path / "gallery", {"kind": "checkpoint"}, 24)
    (tmp_path / "faces/train/Ada").mkdir(parents=True)
    for number in (1, 2):
        Image.open(image).save(tmp_path / f"faces/train/Ada/Ada_000{number}.jpg")
    (tmp_path / "pairs.txt").write_text("1\t1\nAda\t1\t2\nAda\t1\tAda\t2\n")
    data = {"class_path": "mobilevision.datasets.classification.image_folder.ImageFolderModule"}
    config = {"data": {**data, "init_args": {"root": str(tmp_path / "faces")}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = {
        "CKPT": path,
        "IMAGE": image,
        "OUT": tmp_path / "out",
        "GALLERY": tmp_path / "gallery",
        "PAIRS": tmp_path / "pairs.txt",
        "FACES": tmp_path / "faces/train",
        "CONFIG": tmp_path / "config.yaml",
    }
    line = [*command.split()]
    for word in LINES[command].split():
        name, dot, suffix = word.partition(".")
        line.append(f"{words.get(name, name)}{dot}{suffix}")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main(line)
    assert caught.value.code == 2
    assert str(path) in capsys.readouterr().err
    assert {each for each in tmp_path.rglob("*") if "__pycache__" not in each.parts} <= before
    assert not mark.exists()
    assert EVIL not in sys.modules


@pytest.mark.parametrize("name", TRAINING)
def test_lightning__hostile__refused(
    name: str, tmp_path: Path, mark: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.ckpt", next(iter(HOSTILE.values())), mark)
    with pytest.raises(SystemExit) as caught:
        lightning([name, "-c", str(recipe), "--ckpt_path", str(path)])
    assert caught.value.code == 2
    assert f"{path}: " in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("hostile", MADE_OF)
def test_trainer__hostile__refused(hostile: str, tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", HOSTILE[hostile], mark)
    trainer = ResumableTrainer(
        plugins=[AtomicCheckpointIO()],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    task = DetectionTask(SSD(MobileNetV1(width_mult=0.25), num_classes=2), {1: "cup", 2: "spoon"})
    loader = DataLoader([0])
    refuses(lambda: trainer.test(task, loader, ckpt_path=path, verbose=False), path, mark)
    refuses(lambda: trainer.fit(task, loader, ckpt_path=path), path, mark)


# --- what may be loaded


def test_load__harmless__loads(tmp_path: Path, mark: Path) -> None:
    path = write(tmp_path / "a.ckpt", None, mark)
    assert apps.Detector.load(path).categories == {1: "cup", 2: "spoon"}


def own_backbone(folder: Path, checkpoint: Path, mark: Path) -> Path:
    """A checkpoint with a backbone of somebody's own package ``my_package``."""
    (folder / "my_package.py").write_text(
        "from mobilevision.backbone import MobileNetV1\nclass Own(MobileNetV1): pass\n"
    )
    return write(checkpoint, OWN_BACKBONE, mark)


def test_load__own_package__has_to_be_trusted(tmp_path: Path, mark: Path) -> None:
    path = own_backbone(tmp_path / "packages", tmp_path / "a.ckpt", mark)
    with pytest.raises(DataError, match=r"my_package\.Own.*trust=\['my_package'\].*--trust my_p"):
        apps.Detector.load(path)
    assert "my_package" not in sys.modules
    detector = apps.Detector.load(path, trust=["my_package"])
    assert detector.categories == {1: "cup", 2: "spoon"}
    sys.modules.pop("my_package")
    with pytest.raises(DataError, match="--trust my_package"):  # trust ends with the call
        apps.Detector.load(path)


def test_trust__what_the_package_imports__is_not_in_it(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "packages" / "my_imports.py").write_text("from subprocess import Popen\n")
    change = with_mark(lambda mark: {"network": popen(mark) | {"class_path": "my_imports.Popen"}})
    path = write(tmp_path / "a.ckpt", change, mark)
    with pytest.raises(DataError, match=r"names 'my_imports\.Popen'"):
        apps.Detector.load(path, trust=["my_imports"])
    assert not mark.exists()
    sys.modules.pop("my_imports")


def test_trust__of_another_package__does_not_spread(tmp_path: Path, mark: Path) -> None:
    path = own_backbone(tmp_path / "packages", tmp_path / "a.ckpt", mark)
    for names in (["my"], ["my_pack"], ["other"], []):
        with pytest.raises(DataError, match="--trust my_package"):
            apps.Detector.load(path, trust=names)
    assert "my_package" not in sys.modules


def test_command__trusted_package__opens(tmp_path: Path, mark: Path) -> None:
    path = own_backbone(tmp_path / "packages", tmp_path / "a.ckpt", mark)
    with pytest.raises(SystemExit):
        main(["cost", "--ckpt", str(path)])
    assert main(["cost", "--ckpt", str(path), "--trust", "my_package"]) == 0
    sys.modules.pop("my_package")


def test_lightning__trusted_package__resumes(
    tmp_path: Path, mark: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lightning(["fit", "-c", str(recipe)])
    last = next((tmp_path / "runs").rglob("last.ckpt"))
    content = torch.load(last, weights_only=True)
    own_backbone(tmp_path / "packages", tmp_path / "b.ckpt", mark)  # writes my_package
    network = content["hyper_parameters"]["network"]
    network["init_args"]["backbone"]["class_path"] = "my_package.Own"
    torch.save(content, tmp_path / "c.ckpt")
    words = ["test", "-c", str(recipe), "--ckpt_path", str(tmp_path / "c.ckpt")]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        lightning(words)
    assert "--trust my_package" in capsys.readouterr().err
    lightning([*words, "--trust", "my_package"])
    assert "Average Precision" in capsys.readouterr().out
    sys.modules.pop("my_package", None)
