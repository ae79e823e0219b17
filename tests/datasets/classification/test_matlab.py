"""MATLAB files, against what scipy wrote."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mobilevision.datasets.classification.matlab import read_mat
from mobilevision.datasets.errors import DataError


@pytest.mark.parametrize("compressed", [False, True])
def test_read_mat__every_class_of_array__comes_as_written(tmp_path: Path, compressed: bool) -> None:
    names = np.array([["n1"], ["a longer name"]], dtype=object)
    records = np.array([[(3, "fox")], [(4, "owl")]], dtype=[("number", "O"), ("words", "O")])
    content = {"names": names, "numbers": np.array([[1, 300], [2, 4]]), "records": records}
    path = tmp_path / "m.mat"
    savemat(path, content, do_compression=compressed)
    found, numbers, structs = read_mat(path, "names", "numbers", "records")
    assert found == ["n1", "a longer name"]
    assert numbers.tolist() == [1, 2, 300, 4]
    assert structs["words"] == ["fox", "owl"]
    assert [number.item() for number in structs["number"]] == [3, 4]


def test_read_mat__damaged_at_any_byte__is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "m.mat"
    savemat(path, {"names": np.array([["n1"], ["n2"]], dtype=object)})
    content, named = path.read_bytes(), 0
    for position in range(124, len(content)):
        path.write_bytes(content[:position] + b"\xff" + content[position + 1 :])
        try:
            read_mat(path, "names")
        except DataError as error:
            named += str(path) in str(error)
    assert named > 50
