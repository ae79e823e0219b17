"""What a search tries, prunes, continues and writes; a small script stands for the training."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from mobilevision.apps.callbacks.pruning import Pruning
from mobilevision.apps.main import main
from mobilevision.apps.training import sweep
from mobilevision.apps.training.tuning import monitored, read_params
from mobilevision.datasets.errors import DataError

optuna = pytest.importorskip("optuna")

TRAINING = """
import json, pathlib, sys
import optuna, yaml

options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:] if "=" in word)
root = pathlib.Path(options["trainer.default_root_dir"])
run = root / f"version_{len(list(root.glob('version_*')))}"
callback = json.loads(options["trainer.callbacks+"])
place = callback["init_args"]
study = optuna.load_study(study_name=place["study"], storage=place["storage"])
trial = optuna.trial.Trial(study, place["trial"])
rate = float(options["model.optimizer.lr"])
(run / "checkpoints").mkdir(parents=True)
config = {"trainer": {"callbacks": [{"class_path": "Curves"}, callback],
                      "default_root_dir": str(root)}, "ckpt_path": None,
          "model": {"init_args": {"optimizer": {"init_args": {"lr": rate}}}}}
(run / "config.yaml").write_text(yaml.safe_dump(config))
for epoch in range(4):
    trial.report(1 - abs(rate - 0.3) + epoch / 100, epoch)
    if trial.should_prune():
        trial.set_user_attr("pruned", True)
        break
    if pathlib.Path("stop").exists() and epoch == 1:
        (run / "checkpoints/last.ckpt").touch()
        sys.exit("stopped")
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script, path = tmp_path / "training.py", tmp_path / "c.yaml"
    script.write_text(TRAINING)
    monkeypatch.setattr(sweep, "_PROGRAM", (str(script),))
    monkeypatch.setattr(sweep, "_POLL_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
         "init_args": {"monitor": "val/AP", "mode": "max"}},
    ]  # fmt: skip
    content = {"trainer": {"callbacks": callbacks, "default_root_dir": "runs/mine"}}
    path.write_text(yaml.safe_dump(content))
    return path


def words(config: str | Path, *more: str) -> list[str]:
    return ["tune", "-c", str(config), "--param=model.optimizer.lr=linear:0..1", *more]


def table() -> list[dict[str, str]]:
    with Path("runs/tune/trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_tune__finds_the_best_prunes_the_hopeless_and_goes_on(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(config, "--trials=6")) == 0
    first = table()
    assert main(words(config, "--trials=8")) == 0
    rows = table()
    assert rows[:6] == first
    assert [row["trial"] for row in rows] == [str(number) for number in range(8)]
    rates = [float(row["model.optimizer.lr"]) for row in rows]
    assert len(set(rates)) == 8  # a continued sampler draws others
    values = {rate: float(row["val/AP"]) for rate, row in zip(rates, rows, strict=True)
              if row["state"] == "complete"}  # fmt: skip
    assert values == {rate: pytest.approx(1.03 - abs(rate - 0.3)) for rate in values}
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert len(values) + len(pruned) == 8
    assert pruned, "none of the last is worse than the median"
    assert all(int(row["epochs"]) < 4 for row in pruned)

    best = yaml.safe_load(Path("runs/tune/best.yaml").read_text())
    best_rate = max(values, key=values.__getitem__)
    assert best["model"]["init_args"]["optimizer"]["init_args"]["lr"] == pytest.approx(best_rate)
    assert best["trainer"] == {
        "callbacks": [{"class_path": "Curves"}],
        "default_root_dir": "runs/mine",
    }
    for name in ("history", "epochs", "parameters", "importance"):
        assert Path(f"runs/tune/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"with val/AP {max(values.values()):.4g}" in capsys.readouterr().out


def test_pruning__reports_each_epoch_and_ends_the_hopeless(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="tune", direction="maximize")
    for _ in range(5):  # fewer say nothing
        earlier = optuna.trial.create_trial(value=0.9, intermediate_values={1: 0.6, 2: 0.9})
        study.add_trial(earlier)
    callback = Pruning(storage, "tune", study.ask()._trial_id, "val/AP")
    strategy = SimpleNamespace(broadcast=lambda each: each)
    trainer: Any = SimpleNamespace(is_global_zero=True, should_stop=False, strategy=strategy)
    ended = []
    for epoch, (value, sanity) in enumerate([(0.1, True), (0.7, False), (0.4, False)]):
        trainer.sanity_checking, trainer.current_epoch = sanity, epoch
        trainer.callback_metrics = {"val/AP": value}
        callback.on_validation_end(trainer, cast(Any, None))
        ended.append(trainer.should_stop)
    assert ended == [False, False, True]
    assert study.trials[-1].intermediate_values == {1: 0.7, 2: 0.4}
    assert study.trials[-1].user_attrs == {"pruned": True}


def test_tune__interrupted_trial__goes_on_in_its_directory(config: Path) -> None:
    from mobilevision.apps.training.tuning import Search

    search = Search(config, read_params(["model.optimizer.lr=linear:0..1"]), (), Path("runs/tune"))
    search.open().ask(search.params)  # and then the command was killed
    assert main(words(config, "--trials=1")) == 0
    (row,) = table()
    assert (row["trial"], row["state"]) == ("0", "complete")


@pytest.mark.usefixtures("config")
def test_tune__failed_trial_of_a_recipe__is_counted_and_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("stop").touch()
    assert main(words("quickstart", "--trials=1")) == 1
    assert [row["state"] for row in table()] == ["fail"]
    printed = capsys.readouterr()
    assert "stopped" in printed.err
    assert "1 of 1 runs failed. They count as trials" in printed.err
    assert "No trial has finished." in printed.out


def test_tune__other_search_in_the_folder__is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(config, "--trials=1")) == 0
    with pytest.raises(SystemExit) as stopped:
        main(words(config, "--trials=2", "--fit=--trainer.max_epochs=3"))
    assert stopped.value.code == 2
    assert "holds a search with another fit" in capsys.readouterr().err


def test_tune__options_that_there_are_not__stop_at_the_first_trial(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training.py").write_text("raise SystemExit('no such option')")
    for _ in range(2):  # none has begun the second time, either
        with pytest.raises(SystemExit):
            main(words(config))
        assert "did not begin to train: no such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", ["--trials=0", "--seed=-1", "--param=model.optimizer.lr=int:1..2"]
)
def test_tune__senseless_options__are_named(
    config: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words(config, wrong))
    assert wrong.replace("=", " ", 1) in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "word", ["lr", "lr=log:1..0.1", "lr=log:0..1", "lr=int:a..b", "lr=cubic:1..2", "lr=linear:1"]
)
def test_read_params__of_another_form__says_how(word: str) -> None:
    with pytest.raises(DataError, match=r"write OPTION=log:1e-3\.\.1e-1"):
        read_params([word])


def test_read_params__all_kinds() -> None:
    made = optuna.distributions
    assert read_params(["a=log:1e-3..1", "b=linear:0..2", "c=int:1..8", "d=categorical:x, y"]) == {
        "a": made.FloatDistribution(1e-3, 1, log=True),
        "b": made.FloatDistribution(0, 2),
        "c": made.IntDistribution(1, 8),
        "d": made.CategoricalDistribution(["x", "y"]),
    }


def test_monitored__nothing__says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"trainer": {"callbacks": None}}))
    with pytest.raises(DataError, match="no ModelCheckpoint has a monitor"):
        monitored(path)
