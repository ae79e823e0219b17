"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from mobilevision.datasets.files import replaced_folder, size_of, write_atomically


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
