"""Teachers: tables, and networks of other people."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.module import collate
from mobilevision.datasets.faces.sources import CelebAFaces, Faces, LfwFaces
from mobilevision.datasets.faces.views import FaceViews
from mobilevision.datasets.types import FaceBatch
from mobilevision.datasets.vectors import VectorTable, write_vectors
from mobilevision.heads.face_embedding import (
    FacenetTeacher,
    FaceTeacher,
    NcnnTeacher,
    OnnxTeacher,
    TableTeacher,
)
from mobilevision.heads.face_embedding.cards import FACENET, Card
from mobilevision.heads.face_embedding.external_networks import ExternalNetwork

CPU = torch.device("cpu")
FILES = ("a.png", "b.png", "c.png")
VIEWS = FaceViews(Faces("abc", Path("/nowhere"), FILES, None, np.array([-1] * 3), ()))


def batch(ids: list[int], views: list[int]) -> FaceBatch:
    grey = np.full((8, 8, 3), 90, np.uint8)
    return collate([(grey, -1, view, row, FILES[row])
                    for row, view in zip(ids, views, strict=True)])  # fmt: skip


def write_table(path: Path, files: list[str], views: list[int], fingerprint: str | None) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = np.array([[row + 1.0, 1.0] for row in range(len(files))], np.float32)
    table = pyarrow.table(
        {"file": files, "view": np.array(views, np.int32), "embedding": list(rows)}
    )
    if fingerprint is not None:
        table = table.replace_schema_metadata({"fingerprint": fingerprint})
    parquet.write_table(table, path)
    return path


def test_table__finds_the_row_of_each_file_and_view(tmp_path: Path) -> None:
    files = ["c.png", "a.png", "a.png", "b.png", "c.png", "b.png", "other.png"]
    path = write_table(tmp_path / "t.parquet", files, [0, 1, 0, 0, 1, 1, 0], VIEWS.fingerprint)
    teacher = TableTeacher(path)
    teacher.prepare(2, CPU, VIEWS)
    said = teacher(batch([0, 1, 2, 0], [1, 0, 1, 0]))
    rows = torch.tensor([[2.0, 1], [4, 1], [5, 1], [3, 1]])
    torch.testing.assert_close(said, torch.nn.functional.normalize(rows, dim=1))
    with pytest.raises(WeightsError, match=r"view 2 of b\.png is not there; the last is view 1"):
        teacher(batch([1], [2]))


def test_table__of_plain_faces_in_any_format(tmp_path: Path) -> None:
    vectors = np.eye(3, 4, dtype=np.float32) * 7
    for name in ("t.npz", "t.csv"):
        write_vectors(tmp_path / name, VectorTable(np.array(FILES), vectors))
        teacher = TableTeacher(tmp_path / name)
        teacher.prepare(4, CPU, VIEWS)
        assert teacher(batch([2, 0], [0, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
        with pytest.raises(WeightsError, match=r"the last is view 0.*--views"):
            teacher(batch([0], [3]))


def test_table__of_other_views_or_files_or_length_is_refused(tmp_path: Path) -> None:
    files, views = [*FILES, *FILES], [0] * 3 + [1] * 3
    other = write_table(tmp_path / "other.parquet", files, views, "0123")
    with pytest.raises(WeightsError, match="has views 0123, and the data draws"):
        TableTeacher(other).prepare(2, CPU, VIEWS)
    good = write_table(tmp_path / "good.parquet", files, views, VIEWS.fingerprint)
    with pytest.raises(WeightsError, match=r"gives 2 numbers.*the student 5"):
        TableTeacher(good).prepare(5, CPU, VIEWS)
    with pytest.raises(WeightsError, match="a table needs data"):
        TableTeacher(good).prepare(2, CPU)
    few = write_table(tmp_path / "few.parquet", ["b.png"], [0], None)
    with pytest.raises(WeightsError, match=r"2 of 3 files are not in it: a\.png, c\.png"):
        TableTeacher(few).prepare(2, CPU, VIEWS)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("broken.parquet", "absent.parquet"):
        with pytest.raises(DataError, match=name):
            TableTeacher(tmp_path / name).prepare(2, CPU, VIEWS)


class MeanColor(ExternalNetwork):
    """Says three numbers: the mean of each channel."""

    opened = 0

    def _open(self) -> None:
        self.opened += 1

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape[1:] == (self.size, self.size, 3)
        return pixels.mean(axis=(1, 2))


class MeanTeacher(FaceTeacher):
    def make_network(self) -> MeanColor:
        return MeanColor((), Card(size=4, pixel_mean=0, pixel_std=1))


def test_live_teacher__looks_at_the_images_of_the_batch() -> None:
    teacher = MeanTeacher()
    teacher.prepare(3, CPU, VIEWS)
    torch.testing.assert_close(teacher(batch([0], [5])), torch.full((1, 3), 3**-0.5))
    with pytest.raises(WeightsError, match=r"gives 3 numbers.*the student 128"):
        teacher.prepare(128, CPU)
    assert teacher.network.opened == 1


@pytest.mark.parametrize(
    ("teacher", "card"),
    [
        (NcnnTeacher("a.param"), None),
        (NcnnTeacher("a.param", pixel_mean=127.5), Card(pixel_mean=127.5, pixel_std=1)),
        (NcnnTeacher("a.param", 96), Card(size=96, pixel_mean=0, pixel_std=1)),
        (OnnxTeacher("a.onnx"), None),
        (OnnxTeacher("a.onnx", order="bgr"), Card(order="bgr")),
        (FacenetTeacher(size=96), replace(FACENET, size=96)),
    ],
)
def test_options_of_a_teacher__none__leaves_it_to_the_card(teacher: Any, card: Card | None) -> None:
    assert teacher.card == card


def test_facenet__weights_that_were_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("facenet_pytorch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"weights download facenet:vggface2 --accept-license"):
        FacenetTeacher().prepare(512, CPU)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "least"), [("lfw", 0.9999), ("celeba", 0.98)])
def test_ncnn__gives_the_cached_embeddings_of_our_alignment(
    real_data: Path, name: str, least: float
) -> None:
    """The images of celeba were re-packed after they had been embedded, those of lfw not."""
    pytest.importorskip("ncnn")
    sources = {
        "lfw": LfwFaces(real_data / "lfw"),
        "celeba": CelebAFaces(real_data / "celeba", ["val"]),
    }
    views = FaceViews(sources[name].read(), 112)
    table = TableTeacher(real_data / "teacher" / f"{name}.parquet")
    table.prepare(128, CPU, views)
    rows = list(range(0, len(views), len(views) // 12))
    cached = table(FaceBatch(torch.empty(0), torch.empty(0), torch.zeros(len(rows)).long(),
                             torch.tensor(rows), ()))  # fmt: skip
    teacher = NcnnTeacher(real_data / "teacher" / "mobilenet_ncnn.param")
    said = teacher.network.embed(np.stack([views.render(row) for row in rows]))
    assert (cached.numpy() * said).sum(axis=1).min() > least
