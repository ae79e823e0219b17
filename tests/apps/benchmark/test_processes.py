"""Processes that run one thing: what they say, what they hold, how they fail."""

import json
from pathlib import Path

import numpy as np
import pytest

from mobilevision.apps.benchmark import loader as openings
from mobilevision.apps.benchmark.loader import Opened, Opening, open_side
from mobilevision.apps.benchmark.processes import Worker
from mobilevision.apps.benchmark.worker import Commands, peak_memory, serve
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.datasets.errors import DataError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "picture.npy"
    np.save(path, np.zeros((4, 6, 3), np.uint8))
    return path


def write_model(path: Path) -> Path:
    """An ONNX file that says how many images of 4x6 px it got, one or two at once."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 4, 6, 3])
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4])
    node = onnx.helper.make_node("Shape", ["images"], ["shape"])
    graph = onnx.helper.make_graph([node], "shape", [images], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    metadata = ModelMetadata("network", (4, 6), {}, {"shape": "of the images"})
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.save(model, path)
    return path


def test_worker__exported_file__answers_without_torch_and_survives_a_wrong_batch(
    tmp_path: Path, image: Path
) -> None:
    model = write_model(tmp_path / "a.onnx")
    with Worker(Opening("file", str(model)), image, 1, tmp_path) as worker:
        assert worker.wait_until_ready() > 0
        libraries = Path(f"/proc/{worker._process.pid}/maps")
        if libraries.exists():
            loaded = libraries.read_text()
            assert "onnxruntime" in loaded
            assert "libtorch" not in loaded
        with pytest.raises(DataError, match=r"a\.onnx: .*dimensions"):
            worker.run(2)
        assert worker.time(1, 3) > 0
        assert worker.peak_memory() > 1_000_000


def test_worker__file_that_cannot_be_opened__says_why(tmp_path: Path, image: Path) -> None:
    opening = Opening("file", str(tmp_path / "absent.onnx"))
    with (
        Worker(opening, image, 1, tmp_path) as worker,
        pytest.raises(DataError, match=r"absent\.onnx: DataError: .*no such file"),
    ):
        worker.wait_until_ready()


def test_worker__image_of_another_size__says_the_option(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.onnx")
    np.save(tmp_path / "large.npy", np.zeros((8, 6, 3), np.uint8))
    with (
        Worker(Opening("file", str(model)), tmp_path / "large.npy", 1, tmp_path) as worker,
        pytest.raises(DataError, match=r"(?s)an image of 8x6 px: .*--picture-size"),
    ):
        worker.wait_until_ready()


def test_worker__process_that_ends__last_words_are_shown(tmp_path: Path, image: Path) -> None:
    with Worker(Opening("file", "a.onnx"), image, 1, tmp_path) as worker:
        worker._process.kill()
        with pytest.raises(DataError, match=r"a\.onnx: its process ended \(-9\)"):
            worker.wait_until_ready()


def test_commands__batches_are_the_image_again_and_again() -> None:
    seen: list[np.ndarray] = []
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    commands = Commands(seen.append, pixels)
    commands.run(3)
    assert commands.time(1, 2, 0.0) >= 0
    assert [images.shape for images in seen] == [(3, 2, 4, 3), *[(1, 2, 4, 3)] * 3]
    assert all(np.array_equal(image, pixels) for images in seen for image in images)


def test_serve__failures_are_answers_too() -> None:
    def fail(images: np.ndarray) -> None:
        raise RuntimeError(f"no room for {len(images)}")

    replies: list[dict] = []
    lines = [json.dumps({"do": "run", "batch": 7}), json.dumps({"do": "memory"})]
    serve(Commands(fail, np.zeros((1, 1, 3), np.uint8)), lines, replies.append)
    assert replies[0] == {"error": "RuntimeError: no room for 7"}
    assert replies[1]["value"] > 0


def test_peak_memory__stays_after_memory_is_given_back() -> None:
    before = peak_memory()
    block = np.ones(200_000_000, np.uint8)
    del block
    assert peak_memory() >= max(before, 200_000_000)


def test_open_side__no_such_part__says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(source: str, threads: int) -> Opened:
        return Opened(lambda images: (source, threads, len(images)))

    monkeypatch.setitem(openings.OPENERS, "file", fake)
    assert open_side(Opening("file", "x"), 3)(np.zeros((2, 1, 1, 3), np.uint8)) == ("x", 3, 2)
    with pytest.raises(ValueError, match="x: has no network of its own"):
        open_side(Opening("file", "x", "network"), 3)
