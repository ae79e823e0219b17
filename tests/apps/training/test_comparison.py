"""What a comparison runs and what its tables say; a small script stands for the training."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilevision.apps.cli import lightning
from mobilevision.apps.main import main
from mobilevision.apps.training import sweep
from mobilevision.apps.training.comparison import Comparison, plan, read_comparison
from mobilevision.apps.training.sweep import Run
from mobilevision.datasets.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPES = sorted((REPOSITORY / "benchmarks" / "recipes").glob("*.yaml"))

TRAINING = """
import json, pathlib, sys
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(options["trainer.default_root_dir"]) / "version_0"
run.mkdir(parents=True, exist_ok=True)
seed, gain = int(options["seed_everything"]), float(options.get("gain", 0))
if options.get("fails_at") == str(seed):
    sys.exit("out of luck")
if gain < 9:
    numbers = {"AP": 0.1 * seed + gain, "AP50": 0.5, "per_class": {}}
    (run / options.get("file", "coco_metrics.json")).write_text(json.dumps(numbers))
"""


@pytest.fixture(autouse=True)
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training.py").write_text(TRAINING)
    monkeypatch.setattr(sweep, "_PROGRAM", (str(tmp_path / "training.py"),))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(**entries: Any) -> Path:
        (tmp_path / "base.yaml").write_text("trainer: {}")
        content = {"config": "base.yaml", "variants": {"plain": {}}} | entries
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / "recipe.yaml"

    return write


def compare(recipe: Path, out: Path, *words: str) -> int:
    return main(["compare", str(recipe), "--out", str(out), *words])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def test_plan__words__options_then_those_of_the_variant(write) -> None:
    loss = {"class_path": "some.Loss", "init_args": {"weight": 2.0}}
    recipe = write(
        seeds=[4],
        options={"trainer.max_epochs": 2, "a": "text", "b": None},
        variants={"plain": {}, "other": {"trainer.max_epochs": 3, "loss": loss}},
    )
    plain, other = plan(read_comparison(recipe), Path("out"))
    common = ("fit", "-c", str(recipe.parent / "base.yaml"), "--trainer.enable_progress_bar=false",
              "--seed_everything=4", "--data.seed=4", "--trainer.max_epochs=2", "--a=text",
              "--b=null")  # fmt: skip
    assert plain == Run("plain, seed 4", common, Path("out/plain/seed_4"))
    assert other.args[:-2] == common
    assert other.args[-2] == "--trainer.max_epochs=3"
    assert yaml.safe_load(other.args[-1].removeprefix("--loss=")) == loss


def test_plan__order__all_variants_of_a_seed_first(write) -> None:
    comparison = read_comparison(write(seeds=[2, 1], variants={"b": {}, "a": {}}))
    names = [run.name for run in plan(comparison, Path("out"))]
    assert names == ["b, seed 2", "a, seed 2", "b, seed 1", "a, seed 1"]


def test_compare__tables__hand_calculated(write, tmp_path: Path, capsys) -> None:
    recipe = write(seeds=[1, 2], variants={"plain": {}, "better": {"gain": 0.05}})
    assert compare(recipe, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert printed.startswith(table)
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    assert lines[0] == ["variant", "AP", "AP of seeds 1, 2", "AP50", "AP50 of seeds 1, 2",
                        "AP above plain", "minutes", "params", "mult-adds"]  # fmt: skip
    assert lines[2][:6] == ["plain", "0.1500", "0.1000 0.2000", "0.5000", "0.5000 0.5000", "-"]
    assert lines[3][:6] == ["better", "0.2000", "0.1500 0.2500", "0.5000", "0.5000 0.5000",
                            "+0.0500"]  # fmt: skip
    assert {len(line) for line in lines} == {9}
    found = rows(tmp_path / "out")
    assert [(row["variant"], row["seed"], row["AP"]) for row in found] == [
        ("plain", "1", "0.1"), ("better", "1", "0.15000000000000002"), ("plain", "2", "0.2"),
        ("better", "2", "0.25"),
    ]  # fmt: skip
    assert found[1]["run"] == str(tmp_path / "out/better/seed_1/version_0")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["variants"]["better"] == {"gain": 0.05}
    assert content["runs"][3]["metrics"] == {"AP": 0.25, "AP50": 0.5}


def test_compare__a_run_fails__exit_1_and_the_others_count(write, tmp_path: Path, capsys) -> None:
    recipe = write(seeds=[1, 2], variants={"plain": {}, "bad": {"gain": 0.1, "fails_at": 1}})
    assert compare(recipe, tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "bad, seed 1 failed" in printed.err
    assert "out of luck" in printed.err
    row = next(line for line in printed.out.splitlines() if line.startswith("| bad"))
    # Mean and difference are of seed 2 alone.
    assert row.startswith("| bad | 0.3000 | failed 0.3000 | 0.5000 | failed 0.5000 | +0.1000 |")
    assert [row["fault"] for row in rows(tmp_path / "out")] == ["", "the training failed", "", ""]


def test_compare__a_run_without_numbers__exit_1_and_named(write, tmp_path: Path, capsys) -> None:
    recipe = write(variants={"plain": {}, "mute": {"gain": 9}})
    assert compare(recipe, tmp_path / "out") == 1
    assert "mute, seed 1: no AP, AP50 in" in capsys.readouterr().err


def test_compare__faces__numbers_of_a_verification(write, tmp_path: Path) -> None:
    assert compare(write(seeds=[3], options={"file": "verification.json"}), tmp_path / "out") == 0
    assert [float(row["AP"]) for row in rows(tmp_path / "out")] == [pytest.approx(0.3)]


def test_compare__again__takes_what_is_finished(write, tmp_path: Path) -> None:
    recipe = write(seeds=[1])
    compare(recipe, tmp_path / "out")
    (tmp_path / "training.py").write_text("raise SystemExit(1)")
    assert compare(recipe, tmp_path / "out") == 0
    assert rows(tmp_path / "out")[0]["AP"] == "0.1"


def test_compare__options__seeds_variants_and_settings(write, tmp_path: Path) -> None:
    recipe = write(seeds=[1, 2], options={"gain": 0.5},
                   variants={"plain": {}, "a": {}, "b": {"gain": 0.25}})  # fmt: skip
    words = ["--seeds", "3", "--only", "a", "b", "--set", "gain=0.125", "x=y=z"]
    assert compare(recipe, tmp_path / "out", *words) == 0
    found = rows(tmp_path / "out")
    values = [(row["variant"], row["seed"], float(row["AP"])) for row in found]
    assert values == [("a", "3", pytest.approx(0.425)), ("b", "3", pytest.approx(0.55))]
    record = json.loads((tmp_path / "out/a/seed_3/run.json").read_text())
    assert "--x=y=z" in record["args"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--only", "c"], "no variants ['c']; the file has plain"), (["--set", "x"], "OPTION=VALUE"),
     (["--set=--x=1"], "OPTION=VALUE"), (["--seeds", "1", "1"], "--seeds: seeds=[1, 1]")],
)  # fmt: skip
def test_compare__wrong_option__exit_2_and_nothing_started(
    write, tmp_path: Path, capsys, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare(write(), tmp_path / "out", *words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"variants": {}}, "variants has to map"), ({"variants": {"a": 3}}, "a has to map"),
     ({"variants": {"a/b": {}}}, "cannot be folders"), ({"config": "absent.yaml"}, "absent.yaml"),
     ({"seeds": []}, "seeds=[]"), ({"seeds": ["1"]}, "whole numbers"), ({"seed": 1}, "['seed']"),
     ({"options": ["x"]}, "options has to map")],
)  # fmt: skip
def test_read_comparison__wrong_entry__named(write, entries: dict, message: str) -> None:
    recipe = write(**entries)
    with pytest.raises(DataError) as told:
        read_comparison(recipe)
    assert message in str(told.value)
    assert str(recipe) in str(told.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_read_comparison__no_mapping__named(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DataError, match=r"r\.yaml: (not YAML|has to be a mapping)"):
        read_comparison(tmp_path / "r.yaml")
    with pytest.raises(DataError, match=r"absent\.yaml: No such file"):
        read_comparison(tmp_path / "absent.yaml")


# The files in benchmarks/recipes


def first_runs(comparison: Comparison) -> list[Run]:
    return plan(comparison, Path("out"))[: len(comparison.variants)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe__every_variant__is_a_configuration_of_lightning(path: Path, capsys) -> None:
    printed = {}
    for run in first_runs(read_comparison(path)):
        with pytest.raises(SystemExit) as stopped:
            lightning([*run.args, "--print_config"])
        assert stopped.value.code == 0, run.name
        printed[run.name] = capsys.readouterr().out
    assert len(printed) > 1
    assert len(set(printed.values())) == len(printed), "two variants are the same"


@pytest.mark.slow
def test_compare__real_training__cost_and_numbers(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_PROGRAM", ("-m", "mobilevision.apps.cli"))
    content = {
        "config": recipe.name,
        "options": {"trainer.max_epochs": 1},
        "variants": {"thin": {}, "wide": {"model.network.backbone.width_mult": 0.5}},
    }
    (tmp_path / "comparison.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert compare(tmp_path / "comparison.yaml", tmp_path / "out") == 0
    thin, wide = rows(tmp_path / "out")
    assert int(thin["params"]) < int(wide["params"])
    assert int(thin["mult_adds"]) < int(wide["mult_adds"])
    assert float(thin["AP"]) >= 0
    assert float(thin["minutes"]) > 0
