import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mobilevision.apps.cli import lightning
from mobilevision.datasets.synthetic import write_scenes

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four generated scenes, also under the names of COCO 2014 with a file of minival ids."""
    root = tmp_path_factory.mktemp("configs") / "data"
    write_scenes(root, train=4, val=4, size_hw=(96, 96), seed=1, progress=False)
    for split, offset in (("train", 0), ("val", 1000)):  # ids differ in all of COCO
        (root / f"{split}2014").symlink_to(root / split)
        truth = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        for row in truth["images"]:
            row["id"] += offset
        for row in truth["annotations"]:
            row["id"], row["image_id"] = row["id"] + offset, row["image_id"] + offset
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(truth))
    kept = [str(image["id"]) for image in truth["images"][:2]]
    (root / "mscoco_minival_ids.txt").write_text("\n".join(kept))
    return root


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config__instantiates_and_survives_fast_dev_run(
    config: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--data.batch_size=2",
               "--data.num_workers=0", "--trainer.enable_progress_bar=false"]  # fmt: skip
    text = config.read_text()
    if "SyntheticDataModule" in text:
        options += ["--data.train_scenes=4", "--data.val_scenes=4"]
    else:
        options += ["--data.root", str(scenes)]
    if "weights:" in text:
        options += ["--model.weights=null"]
    lightning(["fit", "-c", str(config), *options])
    assert "Average Precision" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config__is_complete_and_says_what_it_is(config: Path) -> None:
    text = config.read_text()
    assert text.startswith("# "), "the header says what it is and what it measured"
    content = yaml.safe_load(text)
    assert set(content) == {"seed_everything", "trainer", "model", "data"}
    assert f"lightning fit -c configs/{config.name}" in text


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config__keeps_the_last_epoch_also_where_it_is_not_the_best(
    config: Path, scenes: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    content["trainer"] |= {
        "callbacks": yaml.safe_load(config.read_text())["trainer"]["callbacks"],
        "default_root_dir": str(tmp_path),
        "max_epochs": 3,
        "check_val_every_n_epoch": 1,
        "limit_train_batches": 1,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
    }
    content["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.0  # the first is the best
    content["data"] = {
        "class_path": "mobilevision.datasets.detection.CocoDataModule",
        "init_args": {"root": str(scenes), "size_hw": [64, 64], "batch_size": 2, "num_workers": 0},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    lightning(["fit", "-c", str(tmp_path / "c.yaml")])
    checkpoints = tmp_path / "version_0" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    steps = [
        torch.load(checkpoints / name, weights_only=True)["global_step"]
        for name in ("best.ckpt", "last.ckpt")
    ]
    assert steps == [1, 3]


def test_generated_scenes__are_real_jpegs(scenes: Path) -> None:
    with Image.open(next((scenes / "train").iterdir())) as picture:
        assert picture.format == "JPEG"
