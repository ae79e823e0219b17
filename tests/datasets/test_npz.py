"""Tables of numpy that are damaged or made to exhaust the memory."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets import files
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.files import read_npz
from mobilevision.datasets.geolocation.shards import INDEX_NAME, read_index
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors


def write_table(path: Path) -> None:
    files = np.array([f"a/{number}.jpg" for number in range(20)])
    write_vectors(path, VectorTable(files, np.random.default_rng(0).random((20, 8), np.float32)))


def test_read_npz__gives_all_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(3), y=np.array(["é"]))
    arrays = read_npz(tmp_path / "a.npz")
    assert arrays["x"].tolist() == [0, 1, 2]
    assert arrays["y"].tolist() == ["é"]


def test_read_npz__unpacks_to_far_more_than_it_holds__is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_UNSUSPICIOUS_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**20))
    with pytest.raises(DataError, match=r"a\.npz: [\d,]+ bytes that unpack to 8,388,\d+"):
        read_npz(tmp_path / "a.npz")


def test_read_npz__objects_and_other_entries__are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz: not a readable"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"readme\.txt is no array"):
        read_npz(tmp_path / "b.npz")


def test_read_vectors_and_read_index__damaged_files__raise_nothing_else(tmp_path: Path) -> None:
    path, index = tmp_path / "a.npz", tmp_path / INDEX_NAME
    write_table(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(content)
        for place in rng.integers(len(data), size=rng.integers(1, 5)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        index.write_bytes(data)
        for read, where in ((read_vectors, path), (read_index, tmp_path)):
            try:
                read(where)
            except DataError:
                refused += 1
    assert refused > 300
