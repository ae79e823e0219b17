"""ONNX files: what is in them, and that they answer as eager torch does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.apps import Detector, Geolocator, LocationResult
from mobilevision.apps.export.export_module import Deployable, open_deployable
from mobilevision.apps.export.exporting import Exported, largest_differences, made_up_image
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

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
BOXES_PX = 2e-2
RESIZED = 10
"""Times the difference that is allowed where torch and ONNX Runtime each resize the images: they
round some pixels to neighboring numbers."""
Exports = Callable[[str], Exported]


@pytest.mark.parametrize("kind", KINDS)
def test_file__same_answers_for_any_batch_and_image(
    kind: str, exported: Exports, deployable: Callable[[str], Deployable]
) -> None:
    eager = deployable(kind)
    run = open_runtime(exported(kind).path, "cpu", threads=1)
    assert run.metadata == eager.metadata
    for batch, size_hw in ((1, eager.metadata.size_hw), (3, (97, 61)), (2, (33, 130))):
        images = np.stack([np.roll(made_up_image(size_hw), 7 * i, axis=1) for i in range(batch)])
        with torch.no_grad():
            answers = eager.module(torch.from_numpy(images))
        expected = {
            name: x.numpy() for name, x in zip(eager.metadata.outputs, answers, strict=True)
        }
        found = run(images)
        assert [(x.shape, x.dtype) for x in found.values()] == [
            (x.shape, x.dtype) for x in expected.values()
        ]
        allowed = 1 if size_hw == eager.metadata.size_hw else RESIZED
        for name, difference in largest_differences(expected, found).items():
            most = {"boxes": BOXES_PX, "landmarks": BOXES_PX, "labels": 0}.get(name, 1e-4)
            assert difference <= most * allowed, name
        assert all(np.ptp(x) > 0 for name, x in expected.items() if name != "labels")


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_detector__same_objects_as_the_checkpoint(
    kind: str, exported: Exports, small: Callable[[str], Path]
) -> None:
    ours, theirs = Detector.load(exported(kind).path, "cpu"), Detector.load(small(kind), "cpu")
    assert ours.categories == theirs.categories
    images = [made_up_image(size) for size in ((64, 80), (120, 90), (31, 47))]
    for mine, other in zip(ours(images, 0.0), theirs(images, 0.0), strict=True):  # type: ignore[call-overload]
        assert len(mine) == len(other) > 0
        np.testing.assert_allclose(mine.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(mine.boxes, other.boxes, atol=2e-2)
        assert mine.names == other.names


def test_geolocator__same_places_as_the_checkpoint(
    exported: Exports, small: Callable[[str], Path]
) -> None:
    ours = Geolocator.load(exported("geolocation").path, "cpu")
    theirs = Geolocator.load(small("geolocation"), "cpu")
    assert list(ours.partition.table.tokens) == list(theirs.partition.table.tokens)
    np.testing.assert_array_equal(ours.partition.spread_km, theirs.partition.spread_km)
    for size_hw in ((64, 80), (150, 90)):
        mine, other = (locate(made_up_image(size_hw)) for locate in (ours, theirs))
        assert isinstance(mine, LocationResult)
        assert isinstance(other, LocationResult)
        assert (mine.latitude, mine.longitude) == pytest.approx((other.latitude, other.longitude))
        assert mine.radius_90_km == pytest.approx(other.radius_90_km, rel=1e-3)
        assert mine.places[0].probability == pytest.approx(other.places[0].probability, rel=1e-3)
    with pytest.raises(DataError, match="an exported file has no five crops"):
        Geolocator.load(exported("geolocation").path, five_crop=True)


def test_graph__checked_without_leftovers_and_with_facts(exported: Exports) -> None:
    written = exported("face_embedding")  # normalization in places that fuse() does not know
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Dropout"}
    assert [each.version for each in model.opset_import if each.domain == ""] == [18]
    assert {each.domain for each in model.opset_import} <= {"", "ai.onnx"}
    (images,) = model.graph.input
    axes = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert (images.name, axes) == ("images", ["batch", "height", "width", 3])
    entries = {each.key: each.value for each in model.metadata_props}
    assert entries["mobilevision.job"] == '"face_embedding"'
    assert "NonMaxSuppression" in {
        node.op_type for node in onnx.load(exported("ssd").path).graph.node
    }


def test_facts__travel_with_the_file(exported: Exports, small: Callable[[str], Path]) -> None:
    metadata = open_runtime(exported("face_attributes").path).metadata
    assert metadata.thresholds == {"Smiling": 0.3, "Wearing_Hat": 0.5}
    assert metadata.license == "MIT"
    assert metadata.provenance["weights"]["source"] == "made up"
    import hashlib

    digest = hashlib.sha256(small("face_attributes").read_bytes()).hexdigest()
    assert metadata.provenance["checkpoint_sha256"] == digest
    assert "landmarks" in metadata.outputs
    threshold = open_runtime(exported("face_embedding").path).metadata.details["verification"]
    assert threshold["threshold"] == 0.31


def test_detector__runs_without_torch(exported: Exports, tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from mobilevision.apps import Detector\n"
        "detector = Detector.load(sys.argv[1])\n"
        "found = detector(np.zeros((40, 50, 3), np.uint8), score_threshold=0)\n"
        "print(len(found), 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(exported("ssd").path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    count, loaded = done.stdout.split()
    assert int(count) > 0
    assert loaded == "False"


def test_command__fixed_size__writes_and_compares(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.onnx"
    words = ["export", "--ckpt", str(small("classification")), "--out", str(out), "--batch", "2"]
    assert main([*words, "--size", "32", "48", "--fixed-picture"]) == 0
    told = capsys.readouterr().out
    for text in ("classification", "32x48 px", "opset 18", "largest difference to torch", "logits"):
        assert text in told
    (images,) = onnx.load(out).graph.input
    assert [axis.dim_value for axis in images.type.tensor_type.shape.dim] == [2, 32, 48, 3]
    assert open_runtime(out)(np.zeros((2, 32, 48, 3), np.uint8))["logits"].shape == (2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.pt"], r"name it x\.onnx"),
        (["--out", "x.onnx", "--format", "abacus"], "--format abacus: there are onnx"),
        (["--out", "x.onnx", "--batch", "0"], "at least 1"),
        (["--out", "x.onnx", "--size", "0", "3"], "--size 0 3: both sides must be above 0"),
        (
            ["--out", "x.onnx", "--ckpt", "absent.ckpt"],
            r"absent\.ckpt: no such model\. Name a check",
        ),
    ],
)
def test_command__wrong_options__exit_status_2(
    small: Callable[[str], Path],
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["export", "--ckpt", str(small("classification")), *words])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyper_parameters": {}}, "does not describe its network"),
        ({"hyper_parameters": {"_class_path": "torch.nn.Linear", "network": {}}}, "trust=.'torch'"),
        ({"hyper_parameters": {"_class_path": "torch.nn.CrossEntropyLoss"}}, "not of a network"),
        ({"hyper_parameters": {"_class_path": "no.Such", "network": 1}}, "trust=.'no'"),
        ({"mobilevision": {}}, "--size 300 300"),
        ({"state_dict": {}}, "that can be rebuilt"),
    ],
)
def test_open_deployable__unfit_checkpoint__says_what_is_wrong(
    small: Callable[[str], Path], tmp_path: Path, changes: dict, message: str
) -> None:
    content = torch.load(small("classification"), weights_only=True) | changes
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(DataError, match=message):
        open_deployable(tmp_path / "x.ckpt")
