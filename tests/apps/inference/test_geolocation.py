"""Geolocation from Python, over files and as images, with a tiny trained model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import Geolocator, LocationResult
from mobilevision.apps.inference.geolocation import geometry
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.cells import build_partition
from mobilevision.datasets.geolocation.coordinates import CellTable, read_cell_table, read_positions
from mobilevision.datasets.synthetic.world import world_photos, write_world
from mobilevision.heads.geolocation import CellClassifier, GeolocationTask

NETWORK = {
    "class_path": "mobilevision.heads.geolocation.CellClassifier",
    "init_args": {
        "backbone": {
            "class_path": "mobilevision.backbone.MobileNetV1",
            "init_args": {"width_mult": 0.25, "out_strides": [16]},
        },
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("geo") / "world"
    write_world(root, train=30, val=6, progress=False)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the command line writes it, of a network that knows nothing."""
    torch.manual_seed(0)
    photos = world_photos("train", 300).latlng_deg
    tables = tuple(build_partition(photos, most, 3)[0].table for most in (100, 20))
    sizes = [len(table.tokens) for table in tables]
    network = CellClassifier(MobileNetV1(0.25, out_strides=(16,)), sizes)
    categories = dict(enumerate(tables[-1].tokens))
    task = GeolocationTask(network, categories)
    task.metadata |= {"size_hw": [64, 64], "crop_fraction": None}
    task.use_cells(tables)
    spec = {**NETWORK, "init_args": {**NETWORK["init_args"], "num_classes": sizes}}
    checkpoint = {
        "state_dict": task.state_dict(),
        "hyper_parameters": {
            "network": spec,
            "categories": categories,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
            "_class_path": "mobilevision.heads.geolocation.task.GeolocationTask",
        },
        "pytorch-lightning_version": "2.6.0",
        "epoch": 0,
        "global_step": 0,
    }
    task.on_save_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("model") / "world.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def geolocator(model: Path) -> Geolocator:
    return Geolocator.load(model, device="cpu")


def image(world: Path, number: int = 1) -> Path:
    return world / "val" / f"{number:06d}.jpg"


def test_call__one_image__best_cell_is_the_answer(geolocator: Geolocator, world: Path) -> None:
    result = geolocator(image(world), top=3)
    assert isinstance(result, LocationResult)
    probabilities = [place.probability for place in result.places]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert (result.latitude, result.longitude) == pytest.approx(
        (result.places[0].latitude, result.places[0].longitude)
    )
    assert 0 <= result.radius_50_km <= result.radius_90_km
    pixels = np.array(Image.open(image(world)))
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = geolocator.runtime.network.network.probabilities(batch)[0]  # type: ignore[attr-defined]
    assert result.places[0].index == int(expected.argmax())
    assert result.places[0].probability == pytest.approx(float(expected.max()), rel=1e-4)


def test_call__many_kinds__same_answers_in_order(geolocator: Geolocator, world: Path) -> None:
    path = image(world)
    pixels = np.array(Image.open(path))
    kinds = [str(path), path, Image.open(path), pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    results = geolocator(kinds, batch_size=2)
    assert isinstance(results, list)
    assert len({(round(each.latitude, 6), round(each.longitude, 6)) for each in results}) == 1
    assert geolocator([]) == []


def test_call__broken_image__raises_but_stream_goes_on(
    geolocator: Geolocator, world: Path, tmp_path: Path
) -> None:
    from mobilevision.datasets.images import ImageFile

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        geolocator(broken)
    outcomes = list(geolocator.stream([ImageFile(broken), ImageFile(image(world))]))
    assert [type(each) for each in outcomes] == [DataError, LocationResult]


def test_five_crop_and_mode__other_answers_are_given(model: Path, world: Path) -> None:
    crops = Geolocator.load(model, "cpu", five_crop=True)(image(world))
    mode = Geolocator.load(model, "cpu", answer="mode")(image(world))
    plain = Geolocator.load(model, "cpu")(image(world))
    assert crops.places[0].probability != plain.places[0].probability
    assert mode.places == plain.places


@pytest.mark.parametrize("content", ["absent", "other"])
def test_load__no_geolocator__says_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ckpt"
    if content == "other":
        torch.save({"state_dict": {}, "hyper_parameters": {}}, path)
    with pytest.raises(DataError, match="no such model" if content == "absent" else "from_network"):
        Geolocator.load(path)


def test_geojson__cells_hold_their_positions(geolocator: Geolocator, world: Path) -> None:
    from matplotlib.path import Path as Outline

    content = geolocator(image(world), top=5).to_geojson("a.jpg")
    point, *cells = content["features"]
    assert content["type"] == "FeatureCollection"
    assert point["geometry"]["type"] == "Point"
    assert set(point["properties"]) == {"radius_50_km", "radius_90_km", "picture"}
    assert len(cells) == 5
    places = geolocator(image(world), top=5).places
    for cell, place in zip(cells, places, strict=True):
        shape = cell["geometry"]
        outlines = shape["coordinates"] if shape["type"] == "Polygon" else [
            each[0] for each in shape["coordinates"]]  # fmt: skip
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for ring in outlines for x, y in ring)
        assert all(ring[0] == ring[-1] for ring in outlines)
        inside = [Outline(ring).contains_point((place.longitude, place.latitude))
                  for ring in outlines]  # fmt: skip
        assert any(inside), place.cell


def test_geometry__across_the_antimeridian__cut_in_two() -> None:
    ring = [(170.0, 0.0), (190.0, 0.0), (190.0, 10.0), (170.0, 10.0), (170.0, 0.0)]
    shape = geometry(ring)
    assert shape["type"] == "MultiPolygon"
    east, west = (
        [sorted({x for x, _ in part[0]}) for part in shape["coordinates"]][index]
        for index in (1, 0)
    )
    assert east == [170, 180]
    assert west == [-180, -170]


# --- the commands


def test_locate__files__lines_geojson_and_resume(
    model: Path, world: Path, tmp_path: Path, capsys
) -> None:
    words = ["locate", str(world / "val"), "--model", str(model), "--device", "cpu",
             "--geojson", str(tmp_path / "a.geojson"), "--out", str(tmp_path / "a.jsonl"),
             "--compare-exif", "--top", "2"]  # fmt: skip
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.count("no EXIF position") == 6
    assert "Compared with EXIF: 0 images (without a position: 6 absent)" in first
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert len(content["features"]) == 6 * 3
    before = (tmp_path / "a.jsonl").read_bytes()
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_locate__without_the_option__exif_is_not_looked_at(
    model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 24.0)}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", exif=exif)
    words = ["locate", str(tmp_path / "a.jpg"), "--model", str(model), "--device", "cpu"]
    assert main([*words, "--compare-exif"]) == 0
    assert "EXIF 48.85833, 2.29000" in capsys.readouterr().out

    def refuse(path: Path) -> None:
        raise AssertionError(f"position of {path} read")

    monkeypatch.setattr("mobilevision.apps.batch.geolocation.exif_position", refuse)
    assert main(words) == 0
    assert "48.858" not in "".join(capsys.readouterr())


def test_locate__broken_image__exit_1_and_the_others_done(
    model: Path, world: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "b.jpg").write_bytes(b"x")
    words = [str(tmp_path / "b.jpg"), str(image(world)), "--model", str(model), "--device", "cpu"]
    assert main(["locate", *words]) == 1
    out = capsys.readouterr().out
    assert "000001.jpg: " in out
    assert "1 files with faults" in out


def test_cells_build__writes_cells_and_a_image(world: Path, tmp_path: Path, capsys) -> None:
    coast = {"type": "LineString", "coordinates": [[0, 0], [10, 10]]}
    (tmp_path / "coast.geojson").write_text(json.dumps(coast))
    words = ["--photos", str(world / "train.csv"), "--max", "5", "--min", "2",
             "--out", str(tmp_path / "cells.csv"), "--picture", str(tmp_path / "cells.png"),
             "--coastline", str(tmp_path / "coast.geojson")]  # fmt: skip
    assert main(["cells", "build", *words]) == 0
    out = capsys.readouterr().out
    cells = read_cell_table(tmp_path / "cells.csv")
    assert isinstance(cells, CellTable)
    assert f"{len(cells.tokens)} cells of levels" in out
    assert "dropped: " in out
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_cells_build__none_left__exit_2(world: Path, tmp_path: Path, capsys) -> None:
    words = ["--photos", str(world / "train.csv"), "--min", "50", "--out", str(tmp_path / "c.csv")]
    with pytest.raises(SystemExit) as caught:
        main(["cells", "build", *words])
    assert caught.value.code == 2
    assert "none of the cells has 50 photos" in capsys.readouterr().err


@pytest.mark.real_data
def test_data_gps__real_folder__table_and_counts(real_data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "gps.csv"
    assert main(["data", "gps", str(real_data / "odd"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "10 of 53 photos" in printed
    assert "38 have no GPS position" in printed
    table = read_positions(out)
    row = list(table.files).index("gps/exifsamples_Kodak_CX7530.jpg")
    assert table.latlng_deg[row] == pytest.approx((-0.3713, 36.056417), abs=1e-5)


def test_data_shard__missing_photo__left_out_on_request(
    world: Path, tmp_path: Path, capsys
) -> None:
    table = tmp_path / "t.csv"
    table.write_text((world / "val.csv").read_text() + "gone.jpg,1,2\n")
    words = ["data", "shard", "--photos", str(table), "--images", str(world),
             "--out", str(tmp_path / "shards"), "--per-shard", "4"]  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert main([*words, "--skip-missing"]) == 1
    out = capsys.readouterr().out
    assert "6 photos in 2 shards" in out
    assert "left out, absent or empty: 1 (gone.jpg)" in out
