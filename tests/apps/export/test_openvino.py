"""OpenVINO files: that they answer as eager torch does, in float32 and in int8."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from mobilevision.apps import Detector
from mobilevision.apps.export.export_module import Deployable
from mobilevision.apps.export.exporting import Exported, largest_differences, made_up_image
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

from mobilevision.apps.export.openvino import convert, resize_as_torch  # noqa: E402 (after what may be absent)

KINDS = (
    "ssd",
    "faster_rcnn",
    "face_detection",
    "classification",
    "face_attributes",
    "face_embedding",
    "faces",
    "geolocation",
)
TOLERANCES = {"boxes": 2e-2, "landmarks": 2e-2, "labels": 0}
"""Largest difference allowed, where it is not that below: boxes and landmarks are in pixels."""
AS_GIVEN, RESIZED = 1e-4, 2e-3
"""For the others: resized inside, a pixel may be one of 255 steps apart from torch's."""


@pytest.mark.parametrize("kind", KINDS)
def test_file__same_answers_for_any_batch_and_image(
    kind: str, converted: Callable[[str], Path], deployable: Callable[[str], Deployable]
) -> None:
    eager = deployable(kind)
    run = open_runtime(converted(kind), "cpu", threads=1)
    assert run.metadata == eager.metadata
    for batch, size_hw in ((1, eager.metadata.size_hw), (3, (97, 61)), (2, (33, 130))):
        images = np.stack([np.roll(made_up_image(size_hw), 7 * i, axis=1) for i in range(batch)])
        with torch.no_grad():
            said = eager.module(torch.from_numpy(images))
        expected = {name: x.numpy() for name, x in zip(eager.metadata.outputs, said, strict=True)}
        found = run(images)
        assert [(x.shape, x.dtype) for x in found.values()] == [
            (x.shape, x.dtype) for x in expected.values()
        ]
        limit = AS_GIVEN if size_hw == eager.metadata.size_hw else RESIZED
        for name, difference in largest_differences(expected, found).items():
            assert difference <= TOLERANCES.get(name, limit), name


def test_detector__runs_without_torch(converted: Callable[[str], Path], tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from mobilevision.apps import Detector\n"
        "detector = Detector.load(sys.argv[1])\n"
        "found = detector(np.zeros((40, 50, 3), np.uint8), score_threshold=0)\n"
        "print(len(found), 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(converted("ssd"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    count, loaded = done.stdout.split()
    assert int(count) > 0
    assert loaded == "False"


def test_open__unfit_file_or_device__says_what_to_do(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "x.xml"
    shutil.copy(converted("classification"), path)
    with pytest.raises(DataError, match=r"its weights, x\.bin, are not beside it"):
        open_runtime(path)
    shutil.copy(converted("classification").with_suffix(".bin"), path.with_suffix(".bin"))
    with pytest.raises(DataError, match=r"device warp: OpenVINO has .*Choose auto or cpu"):
        open_runtime(path, "warp")
    with pytest.raises(DataError, match="after the colon"):
        open_runtime(path, "cpu:int3")
    with pytest.raises(DataError, match="for classification, not for detection"):
        Detector.load(path)
    path.write_text("no model")
    with pytest.raises(DataError, match="OpenVINO cannot open it"):
        open_runtime(path)


def test_open__foreign_file__says_so(tmp_path: Path) -> None:
    given = openvino.opset11.parameter([1], np.float32)
    openvino.save_model(openvino.Model([given], [given]), tmp_path / "x.xml")
    with pytest.raises(DataError, match="has no metadata"):
        open_runtime(tmp_path / "x.xml")


def test_bfloat16__only_when_asked_and_able(converted: Callable[[str], Path]) -> None:
    path, images = converted("classification"), made_up_image((64, 80))[None]
    exact = open_runtime(path, "cpu")(images)["logits"]
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        with pytest.raises(DataError, match="does not support bf16"):
            open_runtime(path, "cpu:bf16")
        return
    rounded = open_runtime(path, "cpu:bf16")(images)["logits"]
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    assert not np.array_equal(rounded, exact)


def test_convert__cannot_be_written__nothing_stays(
    exported: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = exported("classification")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    (tmp_path / "x.xml").write_text("old")
    (tmp_path / "x.bin").write_text("old")
    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(written.path, tmp_path / "x.xml", written.metadata)
    assert [(path.name, path.read_text()) for path in sorted(tmp_path.iterdir())] == [
        ("x.bin", "old"),
        ("x.xml", "old"),
    ]


def test_command__int8__both_files_and_report(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(made_up_image((70, 90))).save(tmp_path / "a.png")
    out = tmp_path / "to" / "x.xml"
    words = ["export", "--ckpt", str(small("classification")), "--format", "openvino"]
    words += ["--out", str(out), "--int8", "--calibrate", str(tmp_path / "a.png")]
    assert main([*words, "--int8-limit", "10"]) == 0
    told = capsys.readouterr().out
    for text in ("openvino 20", "weights in x.bin", "int8: ", "backbone.stem"):
        assert text in told
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.bin", "x.int8.json", "x.xml"]
    run = open_runtime(out, "cpu")
    assert run.metadata.provenance["int8"] == {"method": "minmax", "pictures": 1}
    assert "FakeQuantize" in out.read_text() or "i8" in out.read_text()
    assert run(made_up_image((50, 60))[None])["logits"].shape == (1, 2)


@pytest.mark.parametrize("given_hw", [(97, 61), (20, 200), (48, 64), (300, 33)])
def test_resize__pixels_of_torch(given_hw: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*given_hw, 3), dtype=np.uint8)
    images = openvino.opset13.parameter([-1, 3, -1, -1], np.uint8)
    sizes = openvino.opset13.constant(np.array([1, 3, 48, 64], np.int64))
    resize = openvino.opset13.interpolate(
        images, sizes, mode="linear_onnx", shape_calculation_mode="sizes", antialias=True
    )
    model = openvino.Model([openvino.opset13.convert(resize, "f32")], [images])
    resize_as_torch(model)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(model, "CPU", settings)
    (found,) = run(noise.transpose(2, 0, 1)[None]).values()
    pixels = torch.from_numpy(noise).permute(2, 0, 1)[None]
    expected = F.interpolate(pixels, (48, 64), mode="bilinear", antialias=True)
    apart = np.abs(found - expected.numpy())
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.05
    assert given_hw != (48, 64) or not apart.any()
