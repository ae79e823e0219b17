"""Options of Lightning's trainer in every job, by real short trainings of the recipes."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from mobilevision.apps.cli import lightning

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = (
    "quickstart", "classification_quickstart", "geolocation_quickstart", "face", "face_attributes",
    "face_embedding",
)  # fmt: skip
CALLBACKS = [
    {"class_path": "BatchSizeFinder",
     "init_args": {"init_val": 2, "max_trials": 1, "steps_per_trial": 1}},
    {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 13}},
    {"class_path": "EarlyStopping",  # nothing is as much better
     "init_args": {"monitor": "train/loss", "min_delta": 1e9, "patience": 1,
                   "check_on_train_epoch_end": True}},
    {"class_path": "ModelCheckpoint",
     "init_args": {"filename": "last", "save_on_train_epoch_end": True}},
]  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_finders_early_stopping_and_accumulation__in_every_job(
    name: str, small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    content = yaml.safe_load((REPOSITORY / "configs" / f"{name}.yaml").read_text())
    content["trainer"] |= {
        "callbacks": CALLBACKS, "limit_val_batches": 0, "limit_train_batches": 2, "max_epochs": 4,
        "accumulate_grad_batches": 2, "precision": "32-true", "default_root_dir": str(tmp_path),
        "accelerator": "cpu", "enable_progress_bar": False,
    }  # fmt: skip
    model = content["model"]["init_args"]
    model |= {"weights": None} | ({"distillation": None} if "distillation" in model else {})
    model["network"]["init_args"]["backbone"]["init_args"]["width_mult"] = 0.25
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(content))
    data = small_data(content["data"]["class_path"])
    lightning(["fit", "-c", str(path), "--data.num_workers=0", "--data.batch_size=2", *data])

    found = yaml.safe_load((tmp_path / "version_0/found.yaml").read_text())
    saved = torch.load(tmp_path / "version_0/checkpoints/last.ckpt", weights_only=True)
    rate = found["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert found["data"]["init_args"]["batch_size"] == 2
    group, schedule = saved["optimizer_states"][0]["param_groups"][0], saved["lr_schedulers"][0]
    assert group["initial_lr"] == schedule["base_lrs"][0] == rate
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 4
    assert saved["global_step"] == 2  # one of each two batches, two of four epochs
    assert schedule["total_steps"] == 4


def test_compilation_and_averaged_weights__train_and_leave_plain_checkpoints(
    small_data: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)  # the default would call a C++ compiler for minutes
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    callbacks = [
        {"class_path": "ModelCheckpoint",
         "init_args": {"filename": "last", "save_on_train_epoch_end": True}},
    ]  # fmt: skip
    averaging = "StochasticWeightAveraging"
    runs = {}
    for name, options in (
        ("plain", []),
        ("averaged", [f"--trainer.callbacks+={averaging}", "--trainer.callbacks.swa_lrs=0.001",
                      "--trainer.callbacks.swa_epoch_start=1"]),
        ("compiled", ["--model.compiled=true"]),
    ):  # fmt: skip
        lightning([
            "fit", "-c", "classification_quickstart",
            f"--trainer.callbacks={json.dumps(callbacks)}", *options,
            "--trainer.max_epochs=2", "--trainer.limit_train_batches=2",
            "--trainer.limit_val_batches=0", "--trainer.precision=32-true", "--data.num_workers=0",
            "--data.batch_size=4", "--model.network.backbone.width_mult=0.25",
            "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / name}",
            "--trainer.enable_progress_bar=false",
            *small_data("mobilevision.datasets.synthetic.classification.SyntheticClassificationModule"),
        ])  # fmt: skip
        last = tmp_path / name / "version_0/checkpoints/last.ckpt"
        runs[name] = torch.load(last, weights_only=True)["state_dict"]
        assert bool(graphs) == (name == "compiled")
    assert runs["compiled"].keys() == runs["averaged"].keys() == runs["plain"].keys()
    differences = {
        name: max(
            (runs[name][key].float() - value.float()).abs().max().item()
            for key, value in runs["plain"].items()
        )
        for name in ("compiled", "averaged")
    }
    assert differences["compiled"] < 1e-4 < differences["averaged"]
