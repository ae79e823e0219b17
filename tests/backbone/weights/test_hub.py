"""Public weights by name."""

import re
from pathlib import Path

import pytest

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights.hub import (
    PUBLIC_WEIGHTS,
    cache_folder,
    cached_path,
    find_public,
    resolve_weights,
)
from mobilevision.backbone.weights.loading import WeightsError, load_weights

NAME = "mobilenet_v1_1.0_224"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("name", PUBLIC_WEIGHTS)
def test_public_weights__every_entry__is_complete(name: str) -> None:
    weights = PUBLIC_WEIGHTS[name]
    assert re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert weights.url.startswith("https://")
    width = weights.width_mult
    assert (width is None) == bool(weights.network)
    assert width is None or f"_{width:g}_" in f"{name}_" or f"_{width}_" in name
    kinds = {"ncnn": {".param"}, "onnx": {".onnx"}, "facenet": {".pt"}}
    assert cached_path(name).suffix in kinds.get(weights.network, {".tflite", ".pb", ".pth"})
    assert ":" not in cached_path(name).name
    assert weights.license
    assert weights.source
    assert weights.data
    assert weights.measured or weights.published
    assert bool(weights.terms) == (weights.license in {"unstated", "non-commercial"})


def test_public_weights__no_two_names__have_the_same_file() -> None:
    assert len({weights.sha256 for weights in PUBLIC_WEIGHTS.values()}) == len(PUBLIC_WEIGHTS)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MOBILEVISION_CACHE": "/own"}, "/own/weights"),
        ({"MOBILEVISION_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/weights"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/mobilevision/weights"),
        ({"XDG_CACHE_HOME": "", "MOBILEVISION_CACHE": ""}, "/home/me/.cache/mobilevision/weights"),
        ({}, "/home/me/.cache/mobilevision/weights"),
    ],
)
def test_cache_folder__follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for variable in ("MOBILEVISION_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert cache_folder() == Path(expected)


def test_resolve_weights__name_in_the_cache__is_that_file(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAME}.tflite").touch()
    assert resolve_weights(NAME) == cache / f"{NAME}.tflite"


def test_resolve_weights__name_not_in_the_cache__says_how_to_download() -> None:
    with pytest.raises(WeightsError, match=rf"mobilevision weights download {NAME}$"):
        resolve_weights(NAME)


@pytest.mark.parametrize("path", ["nothing.npz", "mobilenet_v1_1.0_225", "~/nowhere.tflite"])
def test_resolve_weights__neither_name_nor_file__lists_the_names(path: str) -> None:
    with pytest.raises(WeightsError, match="no weights at") as caught:
        resolve_weights(path)
    assert all(name in str(caught.value) for name in PUBLIC_WEIGHTS)
    assert "~" not in str(caught.value)


def test_resolve_weights__existing_path__is_itself(tmp_path: Path) -> None:
    (tmp_path / "w.npz").touch()
    assert resolve_weights(tmp_path / "w.npz") == tmp_path / "w.npz"


def test_find_public__unknown__lists_the_names() -> None:
    with pytest.raises(WeightsError, match=f"resnet50: no public weights.*{NAME}"):
        find_public("resnet50")


def test_load_weights__name_not_downloaded__says_how_to() -> None:
    with pytest.raises(WeightsError, match=f"weights download {NAME}"):
        load_weights(MobileNetV1(), NAME)


@pytest.mark.real_data
def test_load_weights__name_in_the_cache__fills_the_backbone(cache: Path, real_data: Path) -> None:
    cache.mkdir(parents=True)
    name = "ssd_mobilenet_v1_0.75_coco_quant"
    (cache / f"{name}.tflite").symlink_to(real_data / "weights" / "detect.tflite")
    loaded = load_weights(MobileNetV1(width_mult=0.75), name)
    assert loaded.path == cache / f"{name}.tflite"
    assert loaded.folded
