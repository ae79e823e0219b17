"""A tiny data set and a tiny recipe, on which the command lines run in seconds."""

from pathlib import Path

import pytest
import yaml

from mobilevision.datasets.synthetic import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve generated scenes to train on and five, an odd number, to validate on."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(root, train=12, val=5, size_hw=(96, 96), seed=3, progress=False)
    return root


@pytest.fixture
def recipe(tmp_path: Path, scenes: Path) -> Path:
    """A complete configuration: width 0.25 at 64 px, three steps an epoch."""
    callbacks = [
        {
            "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
            "init_args": {"decay": 0.9, "update_every_n_steps": 1},
        },
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"save_last": True, "every_n_train_steps": 1},
        },
        {"class_path": "mobilevision.apps.pictures.DetectionPictures"},
        {"class_path": "mobilevision.apps.curves.Curves"},
    ]
    config = {
        "seed_everything": 7,
        "trainer": {
            "default_root_dir": str(tmp_path / "runs"),
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "mobilevision.heads.detection.DetectionTask",
            "init_args": {
                "network": {
                    "class_path": "mobilevision.heads.detection.SSD",
                    "init_args": {
                        "backbone": {
                            "class_path": "mobilevision.backbone.MobileNetV1",
                            "init_args": {"width_mult": 0.25},
                        },
                        "postprocess": {  # a network that knows nothing yet finds something
                            "class_path": "mobilevision.heads.detection.PostProcess",
                            "init_args": {"score_threshold": 0.0001},
                        },
                    },
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.002}},
                "lr_scheduler": {
                    "class_path": "mobilevision.heads.schedules.WarmupCosine",
                    "init_args": {"warmup_steps": 2},
                },
            },
        },
        "data": {
            "class_path": "mobilevision.datasets.detection.CocoDataModule",
            "init_args": {
                "root": str(scenes),
                "size_hw": [64, 64],
                "batch_size": 4,
                "num_workers": 0,
            },
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
