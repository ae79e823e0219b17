"""Unpacking archives."""

import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from mobilevision.datasets import download
from mobilevision.datasets.download import extract_file, unzip
from mobilevision.datasets.errors import DataError


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_unzip__folders_and_files__as_in_the_archive(tmp_path: Path) -> None:
    entries = {"train/1.jpg": b"one", "train/deep/2.jpg": b"two" * 999, "notes.txt": b""}
    archive = make_zip(tmp_path / "a.zip", entries)
    unzip(archive, tmp_path / "out", progress=False)
    assert tree(tmp_path / "out") == entries
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["notes.txt", "train"]


def test_unzip__empty_folder_in_the_archive__is_made(tmp_path: Path) -> None:
    unzip(make_zip(tmp_path / "a.zip", {"empty/": b""}), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "empty").is_dir()


def test_unzip__folder_exists__is_merged(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "mine.json").write_bytes(b"mine")
    (tmp_path / "annotations" / "old.json").write_bytes(b"old")
    entries = {"annotations/old.json": b"new", "annotations/more.json": b"more"}
    archive = make_zip(tmp_path / "a.zip", entries)
    unzip(archive, tmp_path, progress=False)
    archive.unlink()
    assert tree(tmp_path) == {**entries, "annotations/mine.json": b"mine"}


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"]
)
def test_unzip__entry_leads_out__data_error_and_nothing_unpacked(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(DataError, match="leads out of the folder"):
        unzip(archive, tmp_path / "out", progress=False)
    assert tree(tmp_path) == {"a.zip": archive.read_bytes()}


def test_unzip__link__data_error(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="leads out of the folder"):
        unzip(tmp_path / "a.zip", tmp_path / "out", progress=False)


def test_unzip__encrypted__data_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"secret.txt": b"secret"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"):
        unzip(path, tmp_path / "out", progress=False)


@pytest.mark.parametrize("damage", ["not a zip", "truncated", "flipped"])
def test_unzip__damaged__data_error_and_nothing_unpacked(tmp_path: Path, damage: str) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.txt": b"abc" * 1000, "2.txt": bytes(range(256)) * 9})
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[60] ^= 0xFF
    path.write_bytes({"not a zip": b"hello", "truncated": data[:-40]}.get(damage, data))
    with pytest.raises(DataError, match="not a whole zip archive") as caught:
        unzip(path, tmp_path / "out", progress=False)
    assert str(path) in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_unzip__disk_too_full__data_error_and_nothing_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A small archive may hold far more than its own size.
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(10_000_000)})
    usage = download.shutil.disk_usage(tmp_path)._replace(free=9_999_999)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"content of a\.zip needs 10\.0 MB"):
        unzip(path, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def make_tar(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["model.tflite", "./model.tflite"])
def test_extract_file__takes_that_file_alone(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / "archive", {"../evil.txt": b"evil", name: b"weights" * 99})
    extract_file(archive, "model.tflite", tmp_path / "deep" / "w.tflite")
    assert tree(tmp_path / "deep") == {"w.tflite": b"weights" * 99}
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_extract_file__no_such_file__data_error_lists_those_there(tmp_path: Path, make) -> None:
    archive = make(tmp_path / "archive", {"a.txt": b"", "b.txt": b""})
    with pytest.raises(DataError, match=r"holds no file model.tflite, but a.txt, b.txt"):
        extract_file(archive, "model.tflite", tmp_path / "w.tflite")
    assert tree(tmp_path) == {"archive": archive.read_bytes()}


def test_extract_file__link_in_a_tar__is_no_file(tmp_path: Path) -> None:
    link = tarfile.TarInfo("model.tflite")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(DataError, match="holds no file"):
        extract_file(tmp_path / "a.tgz", "model.tflite", tmp_path / "w.tflite")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_extract_file__damaged_at_any_place__data_error_and_old_file_stays(
    tmp_path: Path, make
) -> None:
    noise = random.Random(0).randbytes(9999)
    whole = make(tmp_path / "archive", {"model.tflite": noise}).read_bytes()
    target = tmp_path / "w.tflite"
    target.write_bytes(b"old")
    for length in range(0, len(noise), 99):  # what follows the content may be absent from a tar
        (tmp_path / "archive").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"not a whole archive|holds no file"):
            extract_file(tmp_path / "archive", "model.tflite", target)
    assert tree(tmp_path).keys() == {"archive", "w.tflite"}
    assert target.read_bytes() == b"old"


def test_extract_file__tar_whose_last_file_is_a_zip__is_a_tar(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.writestr("x", "y")
    with tarfile.open(tmp_path / "a.tar", "w") as outer:
        outer.add(tmp_path / "inner.zip", "inner.zip")
    extract_file(tmp_path / "a.tar", "inner.zip", tmp_path / "out.zip")
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "inner.zip").read_bytes()
