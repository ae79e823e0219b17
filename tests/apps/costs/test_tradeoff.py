"""The figure of accuracy against cost."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.costs.tradeoff import Result, draw_tradeoff, read_results
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError

HEADING = "width_mult,resolution,mult_adds,params,top1,top5,run\n"
ROWS = "1.0,128,1000000,4000,0.7,0.9,a\n0.5,128,100000,1000,0.5,0.8,b\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_read_results__csv_of_a_sweep(tmp_path: Path) -> None:
    assert read_results(write(tmp_path / "results.csv", HEADING + ROWS)) == [
        Result("MobileNet", 1.0, 128, 1e6, 4000.0, 0.7),
        Result("MobileNet", 0.5, 128, 1e5, 1000.0, 0.5),
    ]


def test_read_results__json_without_width_and_resolution(tmp_path: Path) -> None:
    rows = [{"model": "VGG-16", "mult_adds": 15_300, "params": 138, "accuracy": 71.5, "top1": 1}]
    path = write(tmp_path / "results.json", json.dumps(rows))
    assert read_results(path) == [Result("VGG-16", None, None, 15_300.0, 138.0, 71.5)]


def test_read_results__column_of_the_accuracy__can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "results.csv", HEADING + ROWS)
    assert [row.accuracy for row in read_results(path, "top5")] == [0.9, 0.8]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", HEADING, "no rows"),
        ("a.csv", "mult_adds,params\n1,2\n", "no column accuracy or top1; it has mult_adds"),
        ("a.csv", HEADING + "1,128,many,4,0.7,0.9,a\n", "row 1: mult_adds is 'many'"),
        ("a.csv", HEADING + ROWS + "1,128,0,4,0.7,0.9,a\n", "row 3: mult_adds is 0"),
        ("a.csv", HEADING + "1,128,5,4,nan,0.9,a\n", "row 1: top1 is 'nan'"),
        ("a.csv", HEADING + "1,128\n", "row 1: mult_adds is None"),
        ("a.json", "{", "not a readable table"),
        ("a.json", '{"top1": 1}', "a list of objects"),
        ("a.json", "[1]", "a list of objects"),
    ],
)
def test_read_results__that_are_wrong__named(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        read_results(write(tmp_path / name, text))


def test_read_results__no_file__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv"):
        read_results(tmp_path / "gone.csv")


def test_draw__fitted_line__least_squares_by_hand() -> None:
    points = zip([10, 100, 1000], [0, 30, 30], strict=True)
    figure = draw_tradeoff([Result("A", 1.0, 96, cost, 1e4, y) for cost, y in points], "", "")
    (line,) = (line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(line.get_xydata(), [(10, 5), (1000, 35)])  # type: ignore[arg-type]


def test_draw__points_lie_where_the_results_are() -> None:
    results = [
        Result("MobileNet", 1.0, 224, 5e8, 4e6, 0.7),
        Result("MobileNet", 0.5, 224, 1.5e8, 1.3e6, 0.6),
        Result("VGG-16", None, None, 1.5e10, 1.4e8, 0.71),
    ]
    figure = draw_tradeoff(results, "title", "top1")
    first, second = figure.axes
    assert (first.get_xscale(), second.get_xscale()) == ("log", "log")
    for axes, costs in ((first, [5e8, 1.5e8, 1.5e10]), (second, [4e6, 1.3e6, 1.4e8])):
        points = [line.get_xydata() for line in axes.lines if line.get_marker() in "os*"]
        np.testing.assert_allclose(
            np.concatenate(points),
            list(zip(costs, [70, 60, 71], strict=True)),  # type: ignore[arg-type]
        )
    assert first.get_ylabel() == "top1 (%)"
    (legend,) = figure.legends
    slope = 10 / np.log10(5 / 1.5)
    assert [text.get_text() for text in legend.get_texts()] == [
        *("224 px", "width 1", "width 0.5"),
        f"MobileNet: {slope:+.1f} points for\nten times the mult-adds",
    ]
    assert [text.get_text() for text in first.texts] == ["VGG-16"]


def test_draw__one_result__without_a_line() -> None:
    figure = draw_tradeoff([Result("A", 1.0, 96, 1e6, 1e4, 61.0)], "title", "accuracy")
    assert figure.axes[0].get_ylabel() == "accuracy"
    assert len(figure.axes[0].lines) == 1


def test_command__writes_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "results.csv", HEADING + ROWS)
    out = tmp_path / "new" / "figure.png"
    assert main(["plot", "tradeoff", str(results), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 results\n"
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == (1320, 600)
    assert list(out.parent.iterdir()) == [out]
