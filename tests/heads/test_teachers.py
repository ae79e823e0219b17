from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors
from mobilevision.heads.classification.task import CheckpointTeacher
from mobilevision.heads.distillation import IMAGENET_MEAN, IMAGENET_STD, CachedTeacher, ModelTeacher

CPU = torch.device("cpu")


def pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.9))


def test_model_teacher__normalizes_resizes_and_is_in_evaluation_mode() -> None:
    teacher = ModelTeacher(pooled, size_hw=(6, 6))
    teacher.prepare(3, CPU)
    images = torch.tensor([10, 20, 30], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 4, 4)
    expected = (torch.tensor([10, 20, 30]) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(
        IMAGENET_STD
    )
    assert torch.allclose(teacher(images, ("a", "b")), expected.expand(2, 3), atol=1e-4)


def test_model_teacher__by_import_path_with_options() -> None:
    teacher = ModelTeacher("torchvision.models.squeezenet1_1", {"num_classes": 4})
    teacher.prepare(4, CPU)
    assert teacher(torch.zeros(2, 3, 32, 32), ("a", "b")).shape == (2, 4)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("torchvision.models.no_such_net", {}, "no such class or function"),
        ("nowhere.Net", {}, "no such class or function"),
        ("squeezenet", {}, "no such class or function"),
        ("torchvision.models.squeezenet1_1", {"x": 1}, "cannot be made with"),
    ],
)
def test_model_teacher__that_cannot_be_made(path: str, options: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        ModelTeacher(path, options).prepare(4, CPU)


def test_model_teacher__of_other_classes_is_refused() -> None:
    teacher = ModelTeacher(pooled)
    teacher.prepare(7, CPU)
    with pytest.raises(WeightsError, match="the student 7"):
        teacher(torch.zeros(1, 3, 4, 4), ("a",))


@pytest.mark.parametrize("name", ["t.npz", "t.csv", "t.parquet"])
def test_vectors__round_trip(tmp_path: Path, name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    table = VectorTable(np.array([f"d/ü, {k}.jpg" for k in range(5)]), vectors)
    write_vectors(tmp_path / name, table)
    found = read_vectors(tmp_path / name)
    assert found.files.tolist() == table.files.tolist()
    assert np.array_equal(found.vectors, vectors)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_vectors__faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, message in (
        ("file,0\na.jpg,1\na.jpg,2\n", "a.jpg is there 2 times"),
        ("file,0\na.jpg,nan\n", "a.jpg is not finite"),
        ("file,0\na.jpg,1\nb.jpg,1,2\n", "not a table"),
        ("file,0\na.jpg,x\n", "not a table"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_vectors(path)
    (tmp_path / "t.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"t\.npz: not a readable \.npz file"):
        read_vectors(tmp_path / "t.npz")
    with pytest.raises(DataError, match="ends in"):
        read_vectors(tmp_path / "t.pkl")
    with pytest.raises(DataError, match="no such file"):
        read_vectors(tmp_path / "absent.npz")


def test_vectors__no_pickle_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", files=np.array(["a", None], dtype=object), vectors=np.ones((2, 1)))
    with pytest.raises(DataError, match=r"t\.npz: not a readable \.npz file"):
        read_vectors(tmp_path / "t.npz")


@pytest.mark.real_data
def test_vectors__read_published_embeddings(real_data: Path) -> None:
    paths = sorted((real_data / "teacher").glob("*.parquet"))
    assert paths
    for path in paths:
        table = read_vectors(path)
        assert table.vectors.shape[1] == 128
        assert np.allclose(np.linalg.norm(table.vectors, axis=1), 1.0, atol=1e-3)


def cached(tmp_path: Path, **options) -> CachedTeacher:
    table = VectorTable(np.array(["a.jpg", "d/b.jpg"]), np.array([[1, 2], [3, 4]], np.float32))
    write_vectors(tmp_path / "t.npz", table)
    return CachedTeacher(tmp_path / "t.npz", **options)


def test_cached_teacher__looks_up_by_name_below_the_root(tmp_path: Path) -> None:
    teacher = cached(tmp_path, root="/data")
    teacher.prepare(2, CPU, ["/data/a.jpg", "/data/d/b.jpg"])
    said = teacher(torch.zeros(2, 3, 2, 2), ("/data/d/b.jpg", "/data/a.jpg"))
    assert said.tolist() == [[3, 4], [1, 2]]


def test_cached_teacher__missing_images_are_named_and_counted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"2 images are not in the table: c.jpg, e.jpg"):
        cached(tmp_path).prepare(2, CPU, ["a.jpg", "c.jpg", "e.jpg"])
    teacher = cached(tmp_path, on_missing="skip")
    with pytest.warns(UserWarning, match="1 images are not in the table"):
        teacher.prepare(2, CPU, ["a.jpg", "c.jpg"])
    said = teacher(torch.zeros(2, 3, 2, 2), ("c.jpg", "a.jpg"))
    assert said[0].isnan().all()
    assert said[1].tolist() == [1, 2]


def test_cached_teacher__of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has 2 numbers for a file, and the student 5"):
        cached(tmp_path).prepare(5, CPU)


def test_checkpoint_teacher__absent_or_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        CheckpointTeacher(tmp_path / "x.ckpt").prepare(2, CPU)
    torch.save({"state_dict": {}}, tmp_path / "y.ckpt")
    with pytest.raises(WeightsError, match="can be rebuilt"):
        CheckpointTeacher(tmp_path / "y.ckpt").prepare(2, CPU)
