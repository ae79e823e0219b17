"""Files are written whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import SharedFilesWarning
from mobilevision.datasets.files import (
    replaced_atomically,
    replaced_folder,
    size_of,
    write_atomically,
)
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors


def test_write_atomically__makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, b"old")
    write_atomically(path, b"new")

    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_write_atomically__failure_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")
@pytest.mark.usefixtures("open_umask")
def test_replaced_atomically__private_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    with replaced_atomically(path, private=True) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("a face")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with (
        pytest.warns(SharedFilesWarning, match=r"faces\.csv: others can open this file"),
        replaced_atomically(path, private=True) as temporary,
    ):
        temporary.write_text("another")
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomically(tmp_path / "open.txt", b"")
    assert (tmp_path / "open.txt").stat().st_mode & 0o777 == 0o666


@pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")
@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_write_vectors__private(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    write_vectors(path, VectorTable(np.array(["a"]), np.ones((1, 2), np.float32)), private=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_vectors(path).files.tolist() == ["a"]


def write_folder(path: Path, content: str) -> None:
    with replaced_folder(path) as temporary:
        (temporary / "inside").mkdir(parents=True)
        (temporary / "inside" / "file.txt").write_text(content)


def test_replaced_folder__replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "thing.folder"
    for content in ("old", "newer"):
        write_folder(path, content)
        (path / content).touch()
    assert sorted(file.name for file in path.iterdir()) == ["inside", "newer"]
    assert (path / "inside" / "file.txt").read_text() == "newer"
    assert list(path.parent.iterdir()) == [path]
    assert size_of(path) == size_of(path / "inside" / "file.txt") == len("newer")

    (tmp_path / "file.folder").touch()
    write_folder(tmp_path / "file.folder", "in the place of a file")
    assert (tmp_path / "file.folder").is_dir()


@pytest.mark.parametrize("succeed", [0, 1])
def test_replaced_folder__failure_keeps_the_old_and_leaves_nothing(
    succeed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "thing.folder"
    write_folder(path, "old")
    replace, calls = os.replace, []

    def fail_once(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == succeed + 1:
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", fail_once)
    with pytest.raises(OSError, match="no space"):
        write_folder(path, "new")
    assert (path / "inside" / "file.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replaced_folder__nothing_written__says_so(tmp_path: Path) -> None:
    write_folder(tmp_path / "thing.folder", "old")
    with pytest.raises(FileNotFoundError), replaced_folder(tmp_path / "thing.folder"):
        pass
    assert (tmp_path / "thing.folder" / "inside" / "file.txt").read_text() == "old"
