"""An install for inference alone runs exported files, and says what the rest needs."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps import FaceDetector
from mobilevision.apps.export.exporting import Exported
from mobilevision.apps.main import main
from mobilevision.datasets.vectors import read_vectors

pytestmark = pytest.mark.slow

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
PYARROW = "pip install pyarrow, or use a .csv"
WHOLE = "pip install mobilevision"
LACKING = [
    ("detect images --model a.ckpt --out o", "a.ckpt: a checkpoint needs", WHOLE),
    ("detect images --out o", "ssd_mobilenet_v1_0.75_coco_quant: no such file", WHOLE),
    ("detect images --model a.pt2 --out o", "a.pt2: a program of torch.export needs torch", WHOLE),
    ("detect images --model a.xml --out o", "a.xml: openvino", "pip install openvino"),
    ("classify images --model a.ckpt", "a.ckpt: a checkpoint needs", WHOLE),
    ("embed images --model face_embedding.onnx --out e.csv", "finding faces", "--format onnx"),
    (
        "embed images --model facenet:a.pt2 --out e.csv",
        "a network of facenet-pytorch needs torch",
        "pip install torch",
    ),
    (
        "embed images --model face_embedding.onnx --out e.parquet",
        "e.parquet: Parquet needs",
        "pip install pyarrow, or use",
    ),
    ("attributes images --model a.ckpt --out a.csv", "a.ckpt: a checkpoint needs", WHOLE),
    ("analyze images --model a.ckpt --out a.csv", "a.ckpt: a checkpoint needs", WHOLE),
    ("locate images --model a.ckpt", "a.ckpt: a checkpoint needs", WHOLE),
    ("locate images --model a.ckpt --five-crop", "a.ckpt: a checkpoint needs", WHOLE),
    ("gallery list --gallery g", "a gallery needs", "'mobilevision[gallery]'"),
    ("data download cifar10 --root d", "this needs torch", WHOLE),
    ("cost --table 6", "this needs torch", WHOLE),
    ("import a.h5 --out m.ckpt", "this needs torch", WHOLE),
    ("export --ckpt a.ckpt --format onnx --out a2.onnx", "this needs", WHOLE),
    ("benchmark --model a.ckpt", "this needs", WHOLE),
    ("fit -c quickstart", "this needs lightning", WHOLE),
]


WALK = """
import contextlib, io, json, sys
from mobilevision.apps.main import main

said = []
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            main(line.split())
        except SystemExit as ended:
            said.append([ended.code, stderr.getvalue()])
print(json.dumps(said))
"""
NAMES = """
import mobilevision.apps, mobilevision.heads.detection as detection
for name in mobilevision.apps.__all__:
    getattr(mobilevision.apps, name)
try:
    detection.SSD
except ImportError as error:
    print(error)
try:
    import torch
except ImportError as error:
    print(error)
"""


class Machine:
    """A folder, and an environment with the requirements of inference alone."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder = folder
        self.bin = environment / ("Scripts" if os.name == "nt" else "bin")

    def run(self, program: str, *words: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [str(self.bin / program), *words],
            cwd=self.folder, env=ENVIRONMENT, input=stdin, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def pip(environment: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip", "--python", environment, "install", "--quiet", *words]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def machine(
    repository: Path,
    wheel: Path,
    exported: Callable[[str], Exported],
    tmp_path_factory: pytest.TempPathFactory,
) -> Machine:
    root = tmp_path_factory.mktemp("machine")
    environment, folder = root / "environment", root / "folder"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    done = pip(environment, "--requirement", repository / "requirements-inference.txt")
    if "(from versions: none)" in done.stderr:
        pytest.skip("pip reaches no package index here")
    assert done.returncode == 0, done.stderr
    done = pip(environment, "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "images" / name)
    for kind in ("ssd", "classification", "face_detection", "face_embedding"):
        shutil.copy(exported(kind).path, folder / f"{kind}.onnx")
    for name in ("a.ckpt", "a.pt2", "a.xml"):
        (folder / name).touch()
    return Machine(folder, environment)


def both(machine: Machine, out: str, *words: str) -> tuple[Path, Path]:
    """What a command writes there, and what it writes in the environment of the tests."""
    machine.run("mobilevision", *words, "--out", out)
    here = machine.folder / f"here_{out}"
    assert main([*words[:1], str(machine.folder / "images"), *words[2:-1],
                 str(machine.folder / words[-1]), "--out", str(here)]) == 0  # fmt: skip
    return machine.folder / out, here


def test_detect__onnx__same_results_as_here(machine: Machine) -> None:
    options = ("--score-threshold", "0.01", "--model", "ssd.onnx")
    there, here = both(machine, "found", "detect", "images", *options)
    found, expected = (json.loads((x / "results.json").read_text()) for x in (there, here))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
    drawn = {path.name for path in there.rglob("*") if path.suffix in {".jpg", ".png"}}
    assert len(drawn) == 2


def test_classify__onnx__same_table_as_here(machine: Machine) -> None:
    there, here = both(
        machine, "classes.csv", "classify", "images", "--model", "classification.onnx"
    )
    found, expected = (list(csv.DictReader(x.open())) for x in (there, here))
    assert [row["class"] for row in found] == [row["class"] for row in expected]
    assert len(found) == 4  # both classes of two images


def test_embed__onnx_aligned__same_vectors_as_here(machine: Machine) -> None:
    there, here = both(
        machine, "faces.csv", "embed", "images", "--aligned", "--model", "face_embedding.onnx"
    )
    found, expected = read_vectors(there), read_vectors(here)
    assert found.files.tolist() == expected.files.tolist() == ["a.jpg", "b.png"]
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-4)


def test_embed__onnx_detector__same_vectors_as_here(machine: Machine) -> None:
    options = ("--detector", str(machine.folder / "face_detection.onnx"), "--faces", "center")
    there, here = both(
        machine, "found.csv", "embed", "images", *options, "--model", "face_embedding.onnx"
    )
    found, expected = read_vectors(there), read_vectors(here)
    assert found.files.tolist() == expected.files.tolist() == ["a.jpg", "b.png"]
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-3)


def test_face_detector__onnx__same_landmarks_as_here(machine: Machine) -> None:
    program = (
        "from mobilevision.apps import FaceDetector\n"
        "print(FaceDetector.load('face_detection.onnx')('images/a.jpg').landmarks.tolist())"
    )
    found = json.loads(machine.run("python", "-c", program))
    here = FaceDetector.load(machine.folder / "face_detection.onnx")
    expected = here(machine.folder / "images" / "a.jpg").landmarks  # type: ignore[union-attr]
    assert len(expected) > 10
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_evaluate_coco__perfect_results__one(machine: Machine) -> None:
    box = {"image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 50]}
    truth = {"images": [{"id": 1}], "annotations": [{"id": 1, **box}],
             "categories": [{"id": 4, "name": "owl"}]}  # fmt: skip
    (machine.folder / "gt.json").write_text(json.dumps(truth))
    (machine.folder / "results.json").write_text(json.dumps([{**box, "score": 0.5}]))
    options = ("--ground-truth", "gt.json", "--results", "results.json", "--json")
    assert json.loads(machine.run("mobilevision", "evaluate", "coco", *options))["AP"] == 1


def test_names_of_python__no_torch__load_or_say_what_to_install(machine: Machine) -> None:
    assert machine.run("python", "-c", NAMES).splitlines() == [
        "mobilevision.heads.detection.SSD needs torch: pip install mobilevision",
        "No module named 'torch'",
    ]


def test_commands__more_is_needed__one_line_says_what_to_install(machine: Machine) -> None:
    lines = [line for line, *_ in LACKING]
    said = json.loads(machine.run("python", "-c", WALK, stdin=json.dumps(lines)))
    for (line, begin, remedy), (status, message) in zip(LACKING, said, strict=True):
        assert status == 2, line
        *progress, last = message.splitlines()
        assert last.startswith(f"error: {begin}"), line
        assert remedy in last, line
        assert all("file/s" in each or not each for each in progress), line


def test_lightning__script__one_line_says_what_to_install(machine: Machine) -> None:
    done = subprocess.run(
        [str(machine.bin / "lightning"), "fit", "-c", "quickstart"],
        cwd=machine.folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: this needs lightning, which is not installed: {WHOLE}"
    ]
