"""Getting COCO, from a small stand-in on a local server."""

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilevision.datasets import download
from mobilevision.datasets.detection import coco_download as module
from mobilevision.datasets.detection.coco_download import (
    CocoArchive,
    download_coco,
    missing_archives,
    space_needed,
)
from mobilevision.datasets.errors import DataError


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


def archive(folder: Path, path: str, entries: list[str]) -> CocoArchive:
    """Put a zip file on the server, and describe it."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as file:
        for entry in entries:
            file.writestr(entry, f"content of {entry}")
    content = target.read_bytes()
    return CocoArchive(path, len(content), hashlib.md5(content).hexdigest())


@pytest.fixture
def mirror(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server that has a COCO of two images."""
    folder = tmp_path_factory.mktemp("mirror")
    images = {
        (2017, split): archive(folder, f"zips/{split}2017.zip", [f"{split}2017/1.jpg"])
        for split in ("train", "val")
    }
    files = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    annotations = archive(folder, "annotations/annotations_trainval2017.zip", files)
    monkeypatch.setattr(module, "_IMAGES", images)
    monkeypatch.setattr(module, "_ANNOTATIONS", {2017: annotations})
    handler = functools.partial(QuietHandler, directory=str(folder))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/", folder
    http.shutdown()
    thread.join()
    http.server_close()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_download_coco__everything_missing__official_layout_without_archives(
    mirror: tuple[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "coco"
    fetched = download_coco(root, base_url=mirror[0], progress=False)
    assert len(fetched) == 3
    assert files(root) == {
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "train2017/1.jpg",
        "val2017/1.jpg",
    }
    assert (root / "val2017" / "1.jpg").read_text() == "content of val2017/1.jpg"


def test_download_coco__again__fetches_nothing(mirror: tuple[str, Path], tmp_path: Path) -> None:
    download_coco(tmp_path, base_url=mirror[0], progress=False)
    assert download_coco(tmp_path, base_url="http://127.0.0.1:9", progress=False) == []


def test_download_coco__one_split__leaves_out_the_other(
    mirror: tuple[str, Path], tmp_path: Path
) -> None:
    download_coco(tmp_path, splits=["val"], base_url=mirror[0], progress=False)
    assert not (tmp_path / "train2017").exists()
    rest = missing_archives(tmp_path, 2017, ["train", "val"])
    assert [archive.name for archive in rest] == ["train2017.zip"]


def test_download_coco__archive_was_changed__data_error_and_not_unpacked(
    mirror: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = mirror
    path = folder / "zips" / "val2017.zip"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match=r"val2017\.zip: the md5"):
        download_coco(tmp_path, splits=["val"], base_url=address, progress=False)
    assert not (tmp_path / "val2017").exists()


def test_download_coco__disk_too_full__data_error_before_anything(
    mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="COCO 2017 needs"):
        download_coco(tmp_path, base_url=mirror[0], progress=False)
    assert files(tmp_path) == set()


def test_missing_archives__nothing_there__sizes_of_the_real_files(tmp_path: Path) -> None:
    found = missing_archives(tmp_path, 2017, ["val", "train"])
    assert [(archive.name, archive.size) for archive in found] == [
        ("annotations_trainval2017.zip", 252_907_541),
        ("val2017.zip", 815_585_330),
        ("train2017.zip", 19_336_861_798),
    ]
    assert space_needed(found) == 252_907_541 + 815_585_330 + 2 * 19_336_861_798


def test_missing_archives__every_archive__has_an_md5_of_its_own(tmp_path: Path) -> None:
    archives = [
        archive
        for year in (2014, 2017)
        for archive in missing_archives(tmp_path, year, ["train", "val"])
    ]
    assert len({archive.md5 for archive in archives}) == 6
    assert all(len(archive.md5) == 32 and int(archive.md5, 16) for archive in archives)


@pytest.mark.parametrize(
    ("year", "splits", "message"),
    [(2015, ["val"], "2014"), (2017, ["valid"], "valid"), (2017, [], "train, val")],
)
def test_missing_archives__unknown_year_or_split__data_error(
    tmp_path: Path, year: int, splits: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        missing_archives(tmp_path, year, splits)
