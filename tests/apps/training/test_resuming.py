"""Trainings that go on with other options than they were begun with, by real short runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilevision.apps.cli import lightning

QUICK = ("--trainer.limit_val_batches=0", "--trainer.callbacks=null")


def fit(recipe: Path, *options: str) -> None:
    lightning(["fit", "-c", str(recipe), *QUICK, *options])


def newest(tmp_path: Path, version: int) -> Path:
    return next((tmp_path / f"runs/version_{version}/checkpoints").glob("*.ckpt"))


def trained(tmp_path: Path, version: int) -> dict[str, Any]:
    return torch.load(newest(tmp_path, version), weights_only=True)


@pytest.fixture
def begun(recipe: Path, tmp_path: Path) -> Path:
    """The checkpoint of one epoch of three steps."""
    fit(recipe, "--trainer.max_epochs=1")
    return newest(tmp_path, 0)


def messages(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(each.message) for each in recwarn if "do not apply" in str(each.message)]


def test_fit__resumed_with_other_options__says_which_do_not_apply(
    recipe: Path, begun: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fit(
        recipe, f"--ckpt_path={begun}", "--model.optimizer.lr=0.5",
        "--model.optimizer.weight_decay=0.3", "--model.lr_scheduler.final_fraction=0.25",
        "--data.batch_size=3",
    )  # fmt: skip
    (message,) = messages(recwarn)
    for part in (
        "lr 0.5 (the checkpoint's is 0.002)",
        "weight_decay 0.3 (the checkpoint's is 0.01)",
        "final_fraction 0.25 of the schedule (the checkpoint's is 0.0)",
        "total_steps 8 of the schedule (the checkpoint's is 3)",
        "4 batches in an epoch (the checkpoint's were 3)",
        "--reset_optimizer=true",
    ):
        assert part in message, part
    assert message.count("lr 0.5") == 1
    group = trained(tmp_path, 1)["optimizer_states"][0]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.002, 0.01)


def test_fit__resumed_as_it_was_begun__says_nothing(
    recipe: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fit(recipe, "--trainer.limit_train_batches=3")
    fit(recipe, "--trainer.limit_train_batches=3", f"--ckpt_path={newest(tmp_path, 0)}")
    assert messages(recwarn) == []


def test_fit__resumed_with_accumulated_gradients__goes_on_exactly(
    recipe: Path, tmp_path: Path
) -> None:
    every = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    saved = json.dumps([{"class_path": "ModelCheckpoint", "init_args": every}])
    options = ("--trainer.accumulate_grad_batches=2", f"--trainer.callbacks={saved}")
    fit(recipe, *options)
    middle = tmp_path / "runs/version_0/checkpoints/step=3.ckpt"  # of an epoch of three batches
    fit(recipe, *options, f"--ckpt_path={middle}")
    whole, rest = (
        torch.load(tmp_path / f"runs/version_{run}/checkpoints/step=4.ckpt", weights_only=True)
        for run in (0, 1)
    )
    assert whole["lr_schedulers"][0]["total_steps"] == 4
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, rest["state_dict"][name]), name


@pytest.mark.parametrize("averaged", [False, True])
def test_fit__reset_optimizer__takes_the_weights_alone(
    recipe: Path, begun: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, averaged: bool
) -> None:
    average = '[{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]'
    callbacks = f"--trainer.callbacks={average if averaged else 'null'}"
    fit(
        recipe, callbacks, f"--ckpt_path={begun}", "--reset_optimizer=true",
        "--model.optimizer.class_path=torch.optim.SGD", "--model.optimizer.init_args.lr=1.0e-9",
        "--trainer.max_epochs=1",
    )  # fmt: skip
    assert messages(recwarn) == []
    old, new = trained(tmp_path, 0), trained(tmp_path, 1)
    assert new["global_step"] == 3
    assert new["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-9
    for name, value in old["state_dict"].items():
        if name.endswith("weight"):
            torch.testing.assert_close(new["state_dict"][name], value, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reset_optimizer=true",), "name it with --ckpt_path"),
        (
            ("--ckpt_path={begun}", "--model.optimizer=torch.optim.SGD"),
            "optimizer torch.optim.AdamW, and this run has torch.optim.SGD",
        ),
        (
            ("--ckpt_path={begun}", "--model.lr_scheduler=null"),
            "WarmupCosine, and this run has null",
        ),
        (("--ckpt_path={regrouped}",), "the checkpoint's optimizer has groups of"),
        (("--ckpt_path={bare}",), "holds weights alone"),
        (
            ("--ckpt_path={begun}", "--model.network.backbone.width_mult=0.5"),
            "is of another network: it has network.backbone",
        ),
    ],
)
def test_fit__resumed_by_what_does_not_fit__says_what_to_do(
    recipe: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    content = torch.load(begun, weights_only=True)
    bare, regrouped = tmp_path / "bare.ckpt", tmp_path / "regrouped.ckpt"
    torch.save({key: content[key] for key in ("state_dict", "hyper_parameters", "mobilevision",
                                              "pytorch-lightning_version")}, bare)  # fmt: skip
    decayed, plain = content["optimizer_states"][0]["param_groups"]
    plain["params"].append(decayed["params"].pop())
    torch.save(content, regrouped)
    paths = {"begun": begun, "bare": bare, "regrouped": regrouped}
    with pytest.raises(SystemExit) as stopped:
        fit(recipe, *(option.format(**paths) for option in options))
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in printed
    assert "Traceback" not in printed


def test_ckpt_path__of_other_classes__says_so_and_the_remedy_works(
    recipe: Path, begun: Path, tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(scenes, fewer)
    for path in (fewer / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        document["categories"] = document["categories"][:3]
        kept = {category["id"] for category in document["categories"]}
        document["annotations"] = [
            each for each in document["annotations"] if each["category_id"] in kept
        ]
        path.write_text(json.dumps(document))
    data = f"--data.root={fewer}"
    for command in ("fit", "test"):
        with pytest.raises(SystemExit):
            lightning([command, "-c", str(recipe), data, f"--ckpt_path={begun}"])
        printed = capsys.readouterr().err
        assert "is for 8 classes, and this network for 3" in printed
        assert "--model.weights=CHECKPOINT" in printed
        assert "size mismatch" not in printed
    fit(
        recipe, data, f"--model.weights={begun}", "--model.optimizer.lr=0", "--trainer.max_epochs=1"
    )
    old, new = (trained(tmp_path, version)["state_dict"] for version in (0, 3))
    stem = "network.backbone.stem.conv.weight"
    torch.testing.assert_close(new[stem], old[stem])


def test_fit__ckpt_path_of_a_file__leaves_the_options_as_they_are(
    recipe: Path, begun: Path, tmp_path: Path
) -> None:
    threshold = "model.network.postprocess.score_threshold"
    fit(recipe, f"--ckpt_path={begun}", f"--{threshold}=0.25")
    hparams = trained(tmp_path, 1)["hyper_parameters"]
    options = hparams["network"]["init_args"]["postprocess"]["init_args"]
    assert options["score_threshold"] == 0.25


def test_fit__frozen__goes_on_frozen_and_with_another_part_says_so(
    recipe: Path,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ("--model.freeze=backbone", "--model.lr_scheduler.final_fraction=0.5")
    fit(recipe, f"--model.weights={begun}", "--trainer.max_epochs=1", *options)
    assert f"Weights from {begun}" in caplog.text
    again = f"--ckpt_path={newest(tmp_path, 1)}"
    fit(recipe, again, *options)
    old, first, second = (trained(tmp_path, version)["state_dict"] for version in (0, 1, 2))
    for name in old:
        if name.startswith("network.backbone."):
            assert torch.equal(old[name], first[name]), name
            assert torch.equal(old[name], second[name]), name
    moved = "network.predictors.0.classes.weight"
    assert not torch.equal(first[moved], second[moved])
    with pytest.raises(SystemExit):
        fit(recipe, again, "--model.freeze=stage:3")
    assert "another part of the network is trained" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fit(recipe, "--model.freeze=head")
    assert "freeze=head: there is no such part; choose among norms" in capsys.readouterr().err
