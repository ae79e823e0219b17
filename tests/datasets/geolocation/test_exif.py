import csv
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.exif import NoPosition, exif_position, read_gps

GPS_IFD = 0x8825
NAN = IFDRational(0, 0)


def photo(path: Path, gps: dict | None) -> Path:
    image = Image.new("RGB", (16, 16))
    exif = Image.Exif()
    if gps is not None:
        exif[GPS_IFD] = gps
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 24.0)}, (48.858333, 2.29)),
        ({1: "S", 2: (33.0, 54.0, 0.0), 3: "W", 4: (70.5, 0.0, 0.0)}, (-33.9, -70.5)),
        (None, NoPosition.ABSENT),
        ({1: "N", 2: (48.0, 51.0, 30.0)}, NoPosition.ABSENT),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, NoPosition.ABSENT),
        ({1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "S", 2: (95.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "N", 2: (5.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "N", 2: (5.0, 0.0, 0.0), 3: "W", 4: (181.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "S", 2: (90.0, 0.0, 0.0), 3: "W", 4: (179.0, 60.0, 0.0)}, (-90.0, -180.0)),
        ({1: "N", 2: (NAN, 5.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "Q", 2: (5.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({2: (5.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
        ({1: "N", 2: (5.0, 75.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, NoPosition.BROKEN),
    ],
)
def test_position__of_a_written_file(tmp_path: Path, gps: dict | None, expected) -> None:
    found = exif_position(photo(tmp_path / "a.jpg", gps))
    if isinstance(expected, NoPosition):
        assert found is expected
    else:
        assert found == pytest.approx(expected, abs=1e-6)


def test_position__no_image__is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    assert exif_position(tmp_path / "a.jpg") is NoPosition.UNREADABLE
    assert exif_position(tmp_path / "gone.jpg") is NoPosition.UNREADABLE


def test_read_gps__counts_what_has_none(tmp_path: Path) -> None:
    good = photo(tmp_path / "a.jpg", {1: "N", 2: (1.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)})
    none = photo(tmp_path / "b.jpg", None)
    (tmp_path / "c.jpg").write_bytes(b"")
    report = read_gps([good, none, tmp_path / "c.jpg"], ["a", "b", "c"], progress=False)
    assert list(report.table.files) == ["a"]
    assert report.table.latlng_deg.tolist() == [[1, 2]]
    assert report.without[NoPosition.ABSENT] == ["b"]
    assert report.without[NoPosition.UNREADABLE] == ["c"]
    with pytest.raises(DataError, match="no photo with a GPS position among 1: 1 have no GPS"):
        read_gps([none], ["b"], progress=False)


@pytest.mark.real_data
def test_position__real_cameras__as_their_table_says(real_data: Path) -> None:
    with (real_data / "odd" / "odd.csv").open() as file:
        notes = {row["file"]: re.findall(r"-?\d+\.\d+", row["note"]) for row in csv.DictReader(file)
                 if row["note"].startswith("EXIF GPS")}  # fmt: skip
    said = [(name, *numbers) for name, numbers in notes.items()]
    assert len(said) == 10
    for name, latitude, longitude in said:
        found = exif_position(real_data / "odd" / name)
        assert found == pytest.approx((float(latitude), float(longitude)), abs=2e-6), name


@pytest.mark.real_data
def test_read_gps__awkward_files__ten_positions_and_every_other_file_counted(
    real_data: Path,
) -> None:
    files = sorted(path for path in (real_data / "odd").rglob("*") if path.suffix != ".csv")
    report = read_gps(files, [path.name for path in files], progress=False)
    assert len(report.table.files) == 10
    assert sum(map(len, report.without.values())) == len(files) - 10
