"""Public names as models: fetched from a local server once, converted, and found again."""

import functools
import hashlib
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import Classifier, Detector, FaceDetector, FaceEmbedder, Geolocator
from mobilevision.apps.main import main
from mobilevision.apps.public import find_model, public_checkpoint
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights import hub
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.datasets import download as download_module
from mobilevision.datasets.errors import DataError
from mobilevision.heads.checkpoint import read_checkpoint

Capture = pytest.CaptureFixture[str]
NAME = "made_up_0.25_128"
DETECTOR = "ssd_mobilenet_v1_0.75_coco_quant"


def write_classifier(path: Path, seed: int = 0) -> None:
    """A classifier of width 0.25 with TF-slim's names, the weights drawn."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for scope, layer in slim_layers(MobileNetV1(width_mult=0.25)).items():
        out, per_group, height, width = layer.conv.weight.shape
        depthwise = layer.conv.groups > 1
        shape = (height, width, out, 1) if depthwise else (height, width, per_group, out)
        kind = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{kind}"] = rng.normal(scale=0.2, size=shape).astype(np.float32)
        arrays[f"{scope}/bias"] = rng.normal(size=out).astype(np.float32)
    logits = "MobilenetV1/Logits/Conv2d_1c_1x1"
    arrays[f"{logits}/weights"] = rng.normal(size=(1, 1, 256, 1001)).astype(np.float32)
    arrays[f"{logits}/bias"] = rng.normal(size=1001).astype(np.float32)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def publish(archive: Path, member: Path, port: int, **options: Any) -> hub.PublicWeights:
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(member, member.name)
    return hub.PublicWeights(
        url=f"http://127.0.0.1:{port}/{archive.name}",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        member=member.name, width_mult=0.25, license="Apache-2.0", source="nobody", data="noise",
        **options,
    )  # fmt: skip


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, _: str, *args: object) -> None:
        self.asked.append(str(args[0]))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests to a server that has a classifier, and with the real data the detector."""
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module.time, "sleep", lambda _: None)
    folder = tmp_path / "server"
    folder.mkdir()
    handler = type("Bound", (Handler,), {"asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    write_classifier(tmp_path / f"{NAME}.npz")
    weights = publish(folder / "small.zip", tmp_path / f"{NAME}.npz", http.server_port)
    table = {NAME: weights, DETECTOR: weights._replace(job="detection")}
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", table)
    yield handler.asked
    http.shutdown()
    thread.join()
    http.server_close()


def checkpoint_of(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights" / f"{NAME}.ckpt"


def test_load__public_name__fetched_converted_and_silent_later(
    asked: list[str], tmp_path: Path, capsys: Capture
) -> None:
    classify = Classifier.load(NAME)
    assert (classify.size_hw, len(classify.categories)) == ((128, 128), 1000)
    said = capsys.readouterr().err
    path = checkpoint_of(tmp_path)
    for words in (
        NAME,
        "nobody",
        "license Apache-2.0",
        "/small.zip",
        "a checkpoint of 2.0 MB from now on",
        str(path),
    ):
        assert words in said
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{NAME}.npz"]
    assert Classifier.find(NAME) == path
    assert capsys.readouterr().err == ""
    assert len(asked) == 1


@pytest.mark.usefixtures("asked")
def test_public_checkpoint__other_weights_or_damage__made_anew() -> None:
    path = public_checkpoint(NAME)
    first = read_checkpoint(path)["state_dict"]["network.classifier.weight"]
    write_classifier(path.with_suffix(".npz"), seed=1)
    second = read_checkpoint(public_checkpoint(NAME))
    assert not torch.equal(second["state_dict"]["network.classifier.weight"], first)
    digest = hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
    assert second["mobilevision"]["provenance"]["sha256"] == digest
    path.write_bytes(path.read_bytes()[:1000])
    assert read_checkpoint(public_checkpoint(NAME))["mobilevision"] == second["mobilevision"]


@pytest.mark.usefixtures("asked")
def test_public_checkpoint__damaged_weights_in_the_cache__says_to_delete_them() -> None:
    path = public_checkpoint(NAME)
    path.unlink()
    path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{NAME}.npz.*\n.* delete it: it is downloaded again"):
        public_checkpoint(NAME)
    path.with_suffix(".npz").unlink()
    assert public_checkpoint(NAME) == path


def test_public_checkpoint__without_its_weights__is_enough(asked: list[str]) -> None:
    path = public_checkpoint(NAME)
    path.with_suffix(".npz").unlink()
    assert public_checkpoint(NAME) == path
    assert len(asked) == 1


@pytest.mark.usefixtures("asked")
def test_find_model__file_of_that_name__wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_text("mine")
    assert find_model(NAME) == Path(NAME)


@pytest.mark.usefixtures("asked")
def test_find_model__wrong_names__say_which_there_are(capsys: Capture) -> None:
    with pytest.raises(DataError, match=rf"yolo: no such model\. .* Public names are {DETECTOR}\."):
        Detector.load("yolo")
    with pytest.raises(DataError, match=f"for classification, not for detection.*{DETECTOR}"):
        Detector.load(NAME)
    for words in (["cost", "--ckpt"], ["export", "--out", "a.onnx", "--ckpt"],
                  ["benchmark", "--model"]):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([*words, "yolo"])
        assert ended.value.code == 2
        assert f"Public names are {NAME}, {DETECTOR}." in capsys.readouterr().err


@pytest.mark.usefixtures("asked")
def test_cost__public_name(capsys: Capture) -> None:
    assert main(["cost", "--ckpt", NAME]) == 0
    assert "Classifier" in capsys.readouterr().out


def test_public_checkpoint__offline__says_how_to_get_it(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    weights = hub.PUBLIC_WEIGHTS[NAME]._replace(url="http://127.0.0.1:9/small.zip")
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {NAME: weights})
    folder = tmp_path / "cache" / "weights"
    with pytest.raises(DataError, match="gave up after 3 attempts") as caught:
        Classifier.load(NAME)
    for words in (f"weights download {NAME}", str(folder), "MOBILEVISION_CACHE", "--url"):
        assert words in str(caught.value)
    (tmp_path / "other.zip").write_bytes(b"other")
    with pytest.raises(SystemExit):
        main(["weights", "download", NAME, "--url", str(tmp_path / "other.zip")])
    assert "its sha256 differs" in capsys.readouterr().err
    archive = tmp_path / "server" / "small.zip"
    assert main(["weights", "download", NAME, "--url", str(archive)]) == 0
    assert archive.is_file()
    assert public_checkpoint(NAME) == folder / f"{NAME}.ckpt"
    assert asked == []


def test_public_checkpoint__no_torch__says_so_before_the_download(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mobilevision.apps.importing", None)
    with pytest.raises(DataError, match="which converts their weights: pip install mobilevision"):
        Detector.load()
    assert asked == []
    (tmp_path / "a.onnx").write_bytes(b"")
    assert Detector.find(tmp_path / "a.onnx") == tmp_path / "a.onnx"


def test_load__job_without_public_names__says_what_to_give() -> None:
    with pytest.raises(
        DataError, match=r"absent: no such model\. Give a checkpoint .*mobilefacenet"
    ):
        FaceEmbedder.load("absent")
    with pytest.raises(DataError, match=r"no model is given, and there is no public one"):
        Geolocator.find()


def test_public_weights__detectors__are_known_as_such() -> None:
    for name, weights in hub.PUBLIC_WEIGHTS.items():
        if not weights.network:
            jobs = {"ssd": "detection", "retinaface": "face_detection"}
            assert weights.job == jobs.get(name.partition("_")[0], "classification")
    for predictor in (Detector, FaceDetector, Classifier):
        assert predictor.default is not None
        assert hub.find_public(predictor.default).job == predictor.job


@pytest.mark.real_data
def test_detect__no_model__the_public_detector(
    asked: list[str], real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    port = int(hub.PUBLIC_WEIGHTS[DETECTOR].url.split(":")[2].split("/")[0])
    weights = publish(
        tmp_path / "server" / "ssd.zip", real_data / "weights" / "detect.tflite", port,
        job="detection",
    )  # fmt: skip
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {DETECTOR: weights})
    photo = min((real_data / "coco" / "val2017").glob("*.jpg"))
    monkeypatch.chdir(tmp_path)
    assert main(["detect", str(photo)]) == 0
    assert len(asked) == 1
    said = capsys.readouterr()
    assert f"{DETECTOR} is downloaded once" in said.err
    assert "runs/detect/results.json" in said.out
    with Image.open(tmp_path / "runs" / "detect" / "pictures" / f"{photo.stem}.jpg") as image:
        assert image.size == Image.open(photo).size
    assert len(Detector.load()(photo)) > 0
