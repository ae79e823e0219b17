import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from mobilevision.apps.callbacks.world_map import draw_partition, draw_predictions, read_coastline
from mobilevision.apps.drawing import write_figure
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.cells import Partition
from mobilevision.datasets.geolocation.coordinates import CellTable

LINE = [[0, 0], [10, 5], [20, 5]]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ({"type": "LineString", "coordinates": LINE}, 1),
        ({"type": "Feature", "geometry": {"type": "MultiLineString",
                                          "coordinates": [LINE] * 3}}, 3),
        ({"type": "FeatureCollection", "features": [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [LINE, LINE]}},
            {"type": "Feature", "geometry": None},
            {"type": "Feature", "geometry": {"type": "MultiPolygon",
                                             "coordinates": [[LINE], [LINE]]}}]}, 4),
        ({"type": "GeometryCollection", "geometries": [
            {"type": "LineString", "coordinates": LINE}]}, 1),
    ],
)  # fmt: skip
def test_coastline__geojson_of_any_kind__lines(tmp_path: Path, content: dict, lines: int) -> None:
    path = tmp_path / "c.geojson"
    path.write_text(json.dumps(content))
    found = read_coastline(path)
    assert len(found) == lines
    assert all(np.array_equal(line, LINE) for line in found)


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "Point", "coordinates": [1, 2]}', "{}"])
def test_coastline__no_lines__says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.geojson"
    path.write_text(text)
    with pytest.raises(DataError, match=r"c\.geojson: "):
        read_coastline(path)


def test_coastline__cartopy_with_data_on_disk__is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shapefiles/natural_earth/physical/ne_110m_coastline.shp"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    cartopy, reader = ModuleType("cartopy"), ModuleType("cartopy.io.shapereader")
    cartopy.config = {"data_dir": str(tmp_path)}  # type: ignore[attr-defined]
    shapes = SimpleNamespace(geometries=lambda: [SimpleNamespace(coords=[(1, 2), (3, 4)])])
    reader.Reader = lambda path: shapes if path == str(file) else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cartopy", cartopy)
    monkeypatch.setitem(sys.modules, "cartopy.io", ModuleType("cartopy.io"))
    monkeypatch.setitem(sys.modules, "cartopy.io.shapereader", reader)
    (line,) = read_coastline(None)
    assert line.tolist() == [[1, 2], [3, 4]]


@pytest.mark.real_data
def test_coastline__natural_earth__all_lines(real_data: Path) -> None:
    lines = read_coastline(real_data / "coastline.geojson")
    assert len(lines) == 134
    assert sum(map(len, lines)) == 5128


def test_draw_partition__cell_across_the_antimeridian__on_both_sides(tmp_path: Path) -> None:
    table = CellTable(["89c25", "7"], np.zeros((2, 2)), np.array([5, 10]), np.zeros(2))
    figure = draw_partition(Partition(table), [np.array(LINE, float)], "two cells")
    cells = next(each for each in figure.axes[0].collections if isinstance(each, PolyCollection))
    boxes = [path.get_extents() for path in cells.get_paths()]
    assert len(boxes) == 3  # face 3 reaches from 135 to 225 degrees
    assert sorted(round(box.x0) for box in boxes)[0] == -225
    write_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match=r"\.png"):
        write_figure(figure, tmp_path / "a.svg")


def test_draw_predictions__lines_do_not_cross_the_map_at_the_antimeridian() -> None:
    truth = np.array([(0.0, 179.0), (50.0, 10.0), (0.0, 0.0), (80.0, 0.0)])
    answers = np.array([(0.0, -179.0), (50.1, 10.0), (0.0, 180.0), (80.0, 179.0)])
    figure = draw_predictions(truth, answers, [], "answers")
    lines = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)][-1]
    steps = [np.abs(np.diff(path[:, 0])) for path in lines.get_segments()]
    assert len(steps) >= 5
    assert max(step.max(initial=0) for step in steps) < 180
    legend = figure.axes[0].get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["≤ 25 km: 1", "≤ 200 km: 0", "≤ 750 km: 1", "≤ 2500 km: 1", "> 2500 km: 1"]
