"""What is written about errors, and the picture of the worst images."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.error_report.report import draw_worst, write_report


def test_write_report__all_files__agree(evaluation, tmp_path: Path) -> None:
    coco, analysis, evaluated = evaluation
    page = write_report(tmp_path / "run", coco, analysis, evaluated)
    assert page == tmp_path / "run" / "report.html"
    read = json.loads((tmp_path / "run" / "errors.json").read_text())
    assert read["ap50"] == pytest.approx(coco.numbers["AP50"])
    assert read["confusion"]["classes"][1:] == ["dog", "background"]
    assert read["confusion"]["rows_annotated_columns_detected"] == analysis.confusion.tolist()
    assert [row["image_id"] for row in read["worst_images"]] == [3, 2]
    written = sorted(path.name for path in (tmp_path / "run" / "errors").iterdir())
    assert written == [
        "confusion.png", "kinds.png", "precision_recall.png", "thresholds.png", "worst_images.png"
    ]  # fmt: skip
    for name in written:
        with Image.open(tmp_path / "run" / "errors" / name) as image:
            assert image.format == "PNG"
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
    content = page.read_text()
    assert content.count("data:image/png") == 3
    assert content.count("data:image/jpeg") == 1
    assert "3&lt;b&gt;.png: no such file" in content


def test_draw_worst__draws_what_can_be_read_and_names_the_rest(evaluation) -> None:
    _, analysis, evaluated = evaluation
    grid, unreadable = draw_worst(analysis, evaluated)
    assert grid is not None
    assert [message.rpartition("/")[2].partition(":")[0] for message in unreadable] == ["3<b>.png"]
    alone, _ = draw_worst(analysis, evaluated._replace(results=[]))
    assert alone is not None
    assert (alone != grid).any(), "the detections are drawn"
    assert draw_worst(analysis, evaluated._replace(paths={})) == (None, [])


def test_write_report__without_matplotlib__numbers_and_what_to_install(
    evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("figures"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert write_report(tmp_path, *evaluation) == tmp_path / "errors.json"
    assert "it needs matplotlib: pip install matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()
