"""Files that say what they are, and what opens them."""

from pathlib import Path

import numpy as np
import pytest

from mobilevision.apps import Detector
from mobilevision.apps.inference.onnx import choose_providers
from mobilevision.apps.inference.runtime import ModelMetadata, open_runtime
from mobilevision.datasets.errors import DataError

METADATA = ModelMetadata(
    "detection",
    (4, 6),
    {1: "cat", 5: "owl"},
    {"boxes": "pixels", "scores": "falling", "labels": "positions"},
    thresholds={"cat": 0.4},
    details={"cells": [{"tokens": ["1a"]}]},
    license="MIT",
    provenance={"checkpoint": "x.ckpt"},
)


def write_model(path: Path, entries: dict[str, str]) -> Path:
    """An ONNX file whose output is the number of images, with these entries of metadata."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", 4, 6, 3])
    shape = onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.INT64, [4])
    node = onnx.helper.make_node("Shape", ["images"], ["boxes"])
    graph = onnx.helper.make_graph([node], "shape", [images], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, path)
    return path


def test_facts__strings_and_back__equal() -> None:
    entries = METADATA.to_strings()
    assert all(isinstance(value, str) for value in entries.values())
    assert ModelMetadata.from_strings({**entries, "other": "x"}, "file") == METADATA


def test_facts__license_spelled_as_before__read() -> None:
    entries = METADATA.to_strings()
    entries["mobilevision.licence"] = entries.pop("mobilevision.license")
    assert ModelMetadata.from_strings(entries, "file") == METADATA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mobilevision.format": None}, "not written by `mobilevision export`"),
        ({"mobilevision.format": "2"}, "format 2, this version reads 1"),
        ({"mobilevision.job": None}, "damaged"),
        ({"mobilevision.size_hw": "[1]"}, "damaged"),
        ({"mobilevision.categories": "{"}, "damaged"),
    ],
)
def test_facts__absent_or_damaged__says_so(changes: dict, message: str) -> None:
    entries = {key: value for key, value in (METADATA.to_strings() | changes).items() if value}
    with pytest.raises(DataError, match=rf"a\.onnx: .*{message}"):
        ModelMetadata.from_strings(entries, "a.onnx")


def test_open_runtime__runs_what_the_facts_name(tmp_path: Path) -> None:
    metadata = ModelMetadata("classification", (4, 6), {}, {"boxes": "a shape"})
    run = open_runtime(write_model(tmp_path / "a.onnx", metadata.to_strings()), threads=1)
    assert run.metadata == metadata
    found = run(np.zeros((3, 4, 6, 3), np.uint8))
    assert {name: value.tolist() for name, value in found.items()} == {"boxes": [3, 4, 6, 3]}


def test_open_runtime__unfit_file__says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"end in \.onnx.*not in '\.txt'"):
        open_runtime(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        open_runtime(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="ONNX Runtime cannot open it"):
        open_runtime(tmp_path / "broken.onnx")
    path = write_model(tmp_path / "foreign.onnx", {})
    with pytest.raises(DataError, match="has no metadata"):
        open_runtime(path)
    with pytest.raises(DataError, match="threads=0"):
        open_runtime(path, threads=0)


def test_detector__file_of_another_job_or_size__refused(tmp_path: Path) -> None:
    other = ModelMetadata("classification", (4, 6), {}, {"boxes": "x"})
    path = write_model(tmp_path / "other.onnx", other.to_strings())
    with pytest.raises(DataError, match="is a model for classification, not for detection"):
        Detector.load(path)
    path = write_model(tmp_path / "a.onnx", METADATA.to_strings())
    assert Detector.load(path, size_hw=(4, 6)).categories == METADATA.categories
    with pytest.raises(DataError, match="works at 4x6 px"):
        Detector.load(path, size_hw=(300, 300))


def test_choose_providers__best_first_and_cpu_behind() -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert choose_providers("auto", [cpu]) == [cpu]
    assert choose_providers("auto", [cuda, cpu]) == [cuda, cpu]
    assert choose_providers("cuda:1", [cuda, cpu]) == [cuda, cpu]
    assert choose_providers("cpu", [cuda, cpu]) == [cpu]
    for device in ("cuda", "warp"):
        with pytest.raises(DataError, match=f"device {device}: .*Choose auto or cpu"):
            choose_providers(device, [cpu])
