"""``mobilevision evaluate coco``: what it prints, and that it starts without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilevision.apps.commands.evaluate import evaluate_coco
from mobilevision.datasets.errors import DataError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    truth: dict[str, Any] = {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 50]}],
        "categories": [{"id": 4, "name": "raccoon"}],
    }
    found = {"image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 50], "score": 0.5}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps([found]))
    return tmp_path / "gt.json", tmp_path / "results.json"


def test_evaluate_coco__prints_the_table(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_coco(*files)
    printed = capsys.readouterr().out

    assert printed.startswith("COCO boxes on gt: 1 image\n Average Precision  (AP) @[ IoU=0.50")
    assert printed.endswith(" raccoon 1.000\n")


def test_evaluate_coco__json_alone_is_on_stdout(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_coco(*files, json=True)
    printed = json.loads(capsys.readouterr().out)

    assert printed["AP"] == pytest.approx(1.0)
    assert (printed["images"], printed["dataset"]) == (1, "gt")


def test_evaluate_coco__bad_file_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match=r"gt.json: .*Is this the ground truth\?"):
        evaluate_coco(files[0], files[0])


def test_evaluate_coco__needs_no_torch_and_no_images(files: tuple[Path, Path]) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from mobilevision.apps.commands.evaluate import evaluate_coco\n"
        "early = {'torch', 'matplotlib', 'cv2', 'numpy'} & set(sys.modules)\n"
        "evaluate_coco(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(early, {'torch', 'matplotlib'} & set(sys.modules))\n"
        "evaluate_coco(*map(Path, sys.argv[1:3]), json=False, out=Path(sys.argv[3]))\n"
        "print({'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files), str(files[0].parent / "out")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert " raccoon 1.000\nset() set()\n" in done.stdout
    assert done.stdout.endswith(" raccoon 1.000\nset()\n")
    assert (files[0].parent / "out" / "report.html").is_file()


def test_evaluate_coco__images__the_worst_are_drawn(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = json.loads(files[0].read_text())
    truth["images"][0]["file_name"] = "a.png"
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "bbox": [60, 0, 20, 20]})
    files[0].write_text(json.dumps(truth))
    Image.new("RGB", (100, 60)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    evaluate_coco(*files, out=out, images=tmp_path)
    assert f"Why it errs: {out / 'report.html'}" in capsys.readouterr().err
    assert (out / "errors" / "worst_images.png").is_file()
    with pytest.raises(DataError, match="absent: no such folder"):
        evaluate_coco(*files, out=out, images=tmp_path / "absent")
    truth["images"][0]["file_name"] = "../a.png"
    files[0].write_text(json.dumps(truth))
    with pytest.raises(DataError, match="leads out of the dataset"):
        evaluate_coco(*files, out=out, images=tmp_path)


@pytest.mark.real_data
def test_evaluate_coco__real_results(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_data / "coco_eval"
    evaluate_coco(
        folder / "instances_val2014_100_gt.json",
        folder / "instances_val2014_fakebbox100_results.json",
        json=True,
    )
    printed = json.loads(capsys.readouterr().out)

    assert printed["AP"] == pytest.approx(0.503647, abs=5e-7)
    assert printed["images"] == 100
