"""``mobilevision cost`` and the networks of configurations and checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mobilevision.apps.costs.networks import cost_of, network_of
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError

Capture = pytest.CaptureFixture[str]

SSD = {
    "class_path": "mobilevision.heads.detection.SSD",
    "init_args": {
        "backbone": {
            "class_path": "mobilevision.backbone.MobileNetV1",
            "init_args": {"width_mult": 1.0},
        }
    },
}


def write_config(path: Path, network: Any, size_hw: Any = (300, 300)) -> Path:
    data = {"init_args": {"size_hw": list(size_hw)}} if size_hw else {}
    path.write_text(yaml.safe_dump({"model": {"init_args": {"network": network}}, "data": data}))
    return path


def write_checkpoint(path: Path, network: Any, **more: Any) -> Path:
    torch.save({"hyper_parameters": {"network": network}, "state_dict": {}, **more}, path)
    return path


def with_classes(count: int) -> dict[str, Any]:
    return {**SSD, "init_args": {**SSD["init_args"], "num_classes": count}}


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_tables__json__is_a_list_of_rows(capsys: Capture) -> None:
    assert main(["cost", "--table", "13", "6", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["table"] for row in rows] == [6] * 4 + [13] * 9
    assert rows[0] == {
        "table": 6,
        "framework": "classification",
        "model": "1.0 MobileNet-224",
        "resolution": 224,
        "width_mult": 1.0,
        "mult_adds": 568_740_352,
        "params": 4_231_976,
        "paper_mult_adds": 569_000_000,
        "paper_params": 4_200_000,
    }


def test_tables__repeated_option__adds_up(capsys: Capture) -> None:
    assert main(["cost", "--table", "7", "--table", "6", "7"]) == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.startswith("Table ")]
    assert titles == ["Table 6: width multiplier", "Table 7: resolution"]


@pytest.mark.parametrize("words", [["--table", "15"], ["--table", "0"], ["--table", "x"]])
def test_tables__that_the_paper_lacks__are_refused(words: list[str], capsys: Capture) -> None:
    assert ended(["cost", *words]) == 2
    assert "--table" in capsys.readouterr().err


def test_config__counts_its_network_for_its_images(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "a.yaml", SSD)
    assert main(["cost", "--config", str(config), "--num-classes", "90", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["network"] == "SSD"
    assert answer["size_hw"] == [300, 300]
    assert (answer["mult_adds"], answer["params"]) == (1_237_129_408, 6_819_839)
    assert sum(kind["mult_adds"] for kind in answer["kinds"].values()) == answer["mult_adds"]
    assert sum(layer["params"] for layer in answer["layers"]) == answer["params"]


def test_config__text__has_kinds_or_layers_and_the_total(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "a.yaml", with_classes(90))
    assert main(["cost", "--config", str(config)]) == 0
    kinds = capsys.readouterr().out.splitlines()
    assert kinds[0] == "SSD, one image of 300 x 300 px (height x width)"
    assert [line.split("  ")[0] for line in kinds[3:]] == [
        *("conv 1x1", "conv 3x3", "conv dw 3x3", "normalization", "total")
    ]
    assert kinds[-1].split() == ["total", "1.237", "G", "100.00%", "6.820", "M", "100.00%"]
    assert main(["cost", "--config", str(config), "--layers"]) == 0
    layers = capsys.readouterr().out
    assert "\nbackbone.blocks.12.pointwise.conv " in layers
    assert layers.splitlines()[-1].split() == kinds[-1].split()


def test_size__option__goes_before_the_configuration(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "a.yaml", with_classes(2))
    assert main(["cost", "--config", str(config), "--size", "64", "96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size_hw"] == [64, 96]


def test_checkpoint__knows_its_network_and_its_size(tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "a.ckpt", with_classes(90), mobilevision={"format": 1, "size_hw": [300, 300]}
    )
    name, size_hw, cost = cost_of(None, path)
    assert (name, size_hw, cost.params) == ("SSD", (300, 300), 6_819_839)


def test_checkpoint_and_config__network_of_the_one_and_size_of_the_other(tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.yaml", with_classes(2), (64, 96))
    path = write_checkpoint(tmp_path / "a.ckpt", with_classes(90))
    _, size_hw, cost = cost_of(config, path)
    assert size_hw == (64, 96)
    assert cost.params == 6_819_839


def test_network_that_selects_by_value__is_counted_all_the_same(tmp_path: Path) -> None:
    network = {
        "class_path": "mobilevision.heads.detection.faster_rcnn.FasterRCNN",
        "init_args": {
            "backbone": {
                "class_path": "mobilevision.backbone.MobileNetV1",
                "init_args": {"width_mult": 0.25, "out_strides": [16]},
            },
            "num_classes": 3,
        },
    }
    name, _, cost = cost_of(write_config(tmp_path / "a.yaml", network, (64, 64)), None)
    assert name == "FasterRCNN"
    assert cost.mult_adds > 0


def test_configs__of_the_repository__can_be_counted(repository: Path) -> None:
    configs = sorted((repository / "configs").glob("ssd*.yaml"))
    assert configs
    for config in configs:
        assert cost_of(config, None, num_classes=80)[1][0] >= 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [", "not a readable configuration"),
        ("- 1", "not a configuration"),
        ("model: {}", "names no network"),
        ("model: {init_args: {network: {class_path: torch.nn.Nothing}}}", "cannot be built"),
        ("model: {init_args: {network: {class_path: pathlib.Path}}}", "cannot be built"),
        ("model: {init_args: {network: {class_path: torch.nn.ReLU, init_args: {a: 1}}}}", "cannot"),
    ],
)
def test_config__that_is_wrong__is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"wrong\.yaml: .*{message}"):
        network_of(path)


def test_config__that_leaves_the_classes_to_the_data__asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give it with --num-classes"):
        network_of(write_config(tmp_path / "a.yaml", SSD))


@pytest.mark.parametrize("kind", ["pickle", "text", "gone", "no network"])
def test_checkpoint__that_is_wrong__is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.ckpt"
    if kind == "pickle":
        torch.save({"hyper_parameters": {"network": torch.nn.Linear(1, 1)}}, path)
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "no network":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match=r"wrong\.ckpt"):
        network_of(None, path)


def test_size__that_nobody_says__is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", with_classes(2))
    assert ended(["cost", "--ckpt", str(path)]) == 2
    assert "--size HEIGHT WIDTH" in capsys.readouterr().err


def test_table_and_config__together__are_refused(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "a.yaml", with_classes(2))
    assert ended(["cost", "--table", "6", "--config", str(config)]) == 2
    assert "--table" in capsys.readouterr().err
