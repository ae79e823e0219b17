from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mobilevision.apps.callbacks.hints import cpu_has_bfloat16
from mobilevision.apps.cli import lightning
from mobilevision.configs import find_config
from mobilevision.datasets.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
QUICKSTARTS = {
    "DetectionTask": "quickstart.yaml",
    "ClassificationTask": "classification_quickstart.yaml",
    "GeolocationTask": "geolocation_quickstart.yaml",
}
"""Task -> the recipe that trains it on generated data."""
PRINTED = {
    "DetectionTask": "Average Precision",
    "FaceDetectionTask": "Average Precision",
    "ClassificationTask": "top-1",
    "AttributeTask": "mean AP",
    "GeolocationTask": "best constant",
    "FacesTask": "mean AP",
    "FaceEmbeddingTask": "Nothing verified",  # a trial run embeds one batch
}
"""Task -> what is printed at the end of a training."""

NAMES = ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"]

SmallData = Callable[[str], list[str]]


def content_of(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text())


def task_of(config: Path) -> str:
    return content_of(config)["model"]["class_path"].rpartition(".")[2]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config__instantiates_and_survives_fast_dev_run(
    config: Path, small_data: SmallData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    data = small_data(content_of(config)["data"]["class_path"])
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--data.batch_size=2",
               "--data.num_workers=0", "--trainer.enable_progress_bar=false"]  # fmt: skip
    if config.stem != "cifar10" and not cpu_has_bfloat16():  # emulated, it takes minutes
        options += ["--trainer.precision=32-true"]
    if "weights" in content_of(config)["model"]["init_args"]:
        options += ["--model.weights=null"]
    if "distillation" in content_of(config)["model"]["init_args"]:
        options += ["--model.distillation=null"]  # there is no teacher here
    if "download: true" in config.read_text():
        options += ["--model.network.backbone.download=false"]
    lightning(["fit", "-c", str(config), *options, *data])
    assert PRINTED[task_of(config)] in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_find_config__name_of_a_recipe__the_user_s_file_wins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(REPOSITORY / "configs" / "quickstart.yaml")
    own = Path(name)
    own.parent.mkdir(exist_ok=True)
    own.touch()
    assert find_config(name) == own


@pytest.mark.parametrize("name", ["quikstart", "other/quickstart.yaml", "quickstart.yml"])
def test_find_config__unknown__lists_the_recipes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = ", ".join(path.stem for path in CONFIGS)
    with pytest.raises(DataError, match=f"{name}: no such configuration.* are {recipes}$"):
        find_config(name)


def test_lightning__outside_a_clone__takes_names_and_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["-c", "configs/quickstart.yaml", "-c", "{seed_everything: 77}", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        lightning(["fit", *options])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed_everything"] == 77
    written = content_of(REPOSITORY / "configs" / "quickstart.yaml")
    assert printed["data"]["class_path"] == written["data"]["class_path"]
    with pytest.raises(SystemExit) as ended:
        lightning(["fit", "--config=quikstart"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: quikstart: no such configuration;")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config__is_complete_and_says_what_it_is(config: Path) -> None:
    text = config.read_text()
    assert text.startswith("# "), "the header says what it is and what it measured"
    content = yaml.safe_load(text)
    assert set(content) == {"seed_everything", "trainer", "model", "data"}
    assert f"lightning fit -c configs/{config.name}" in text


@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if task_of(path) in QUICKSTARTS], ids=lambda path: path.stem
)
def test_config__keeps_the_last_epoch_also_where_it_is_not_the_best(
    config: Path, small_data: SmallData, tmp_path: Path
) -> None:
    content = content_of(REPOSITORY / "configs" / QUICKSTARTS[task_of(config)])
    content["trainer"] |= {
        "callbacks": content_of(config)["trainer"]["callbacks"],
        "default_root_dir": str(tmp_path),
        "max_epochs": 3,
        "check_val_every_n_epoch": 1,
        "limit_train_batches": 1,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
    }
    # Nothing changes, so the first is the best.
    content["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.0
    backbone = content["model"]["init_args"]["network"]["init_args"]["backbone"]
    backbone["init_args"]["norm_momentum"] = 0.0
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    data = small_data(content["data"]["class_path"])
    options = ["--data.num_workers=0", "--data.batch_size=2"]
    lightning(["fit", "-c", str(tmp_path / "c.yaml"), *options, *data])
    checkpoints = tmp_path / "version_0" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    steps = [
        torch.load(checkpoints / name, weights_only=True)["global_step"]
        for name in ("best.ckpt", "last.ckpt")
    ]
    assert steps == [1, 3]


@pytest.mark.parametrize("config", QUICKSTARTS.values())
def test_generated_images__are_real_jpegs(
    config: str, small_data: SmallData, tmp_path: Path
) -> None:
    path = REPOSITORY / "configs" / config
    data = small_data(content_of(path)["data"]["class_path"])
    lightning(["fit", "-c", str(path), "--trainer.fast_dev_run=true", "--data.num_workers=0",
               "--data.batch_size=2", f"--trainer.default_root_dir={tmp_path}", *data])  # fmt: skip
    root = Path(data[data.index("--data.root") + 1])
    with Image.open(next((root / "train").rglob("*.jpg"))) as image:
        assert image.format == "JPEG"
