"""Teachers: tables, and networks of other people."""

import sys
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
from mobilevision.heads.face_embedding.teachers import open_teacher

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


class MeanColor(FaceTeacher):
    """Says three numbers: the mean of each channel."""

    opened = 0

    def open(self) -> None:
        self.opened += 1

    def infer(self, images: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (self.size, self.size, 3)
        return images.mean(axis=(1, 2))


def test_embed__takes_both_layouts_and_any_size_and_opens_once() -> None:
    teacher = MeanColor(16)
    faces = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    rows = teacher.embed(faces)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(rows, teacher.embed(torch.from_numpy(faces).permute(0, 3, 1, 2)))
    larger = faces.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(teacher.embed(larger), rows, atol=2e-3)
    assert teacher.embed(faces[:0]).shape == (0, 3)
    assert teacher.opened == 1
    with pytest.raises(ValueError, match="uint8 images"):
        teacher.embed(faces.astype(np.float32))


def test_live_teacher__looks_at_the_images_of_the_batch() -> None:
    teacher = MeanColor(4)
    teacher.prepare(3, CPU, VIEWS)
    torch.testing.assert_close(teacher(batch([0], [5])), torch.full((1, 3), 3**-0.5))
    with pytest.raises(WeightsError, match=r"gives 3 numbers.*the student 128"):
        teacher.prepare(128, CPU)


def test_open_teacher__by_one_word() -> None:
    kinds = {
        "facenet:vggface2": FacenetTeacher,
        "onnx:a.onnx": OnnxTeacher,
        "ncnn:a.param": NcnnTeacher,
    }
    assert {word: type(open_teacher(word)) for word in kinds} == kinds
    assert open_teacher("runs/face/best.ckpt") is None
    assert open_teacher("ncnn:") is None


@pytest.mark.parametrize(
    ("teacher", "module", "package"),
    [
        (NcnnTeacher("a.param"), "ncnn", r"'mobilevision\[ncnn\]'"),
        (OnnxTeacher("a.onnx"), "onnxruntime", "onnxruntime"),
        (FacenetTeacher(), "facenet_pytorch", "facenet-pytorch==2.5.3"),
    ],
)
def test_library__absent(
    teacher: FaceTeacher, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsError, match=f"needs {module}: pip install {package}$"):
        teacher.embed(np.zeros((1, 112, 112, 3), np.uint8))


def onnx_model(path: Path, shape: list[Any]) -> Path:
    """The mean of each channel, times 1, 2, 3."""
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["faces", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "factors"], ["said"]),
    ]
    constants = [
        helper.make_tensor("axes", onnx.TensorProto.INT64, [2], axes),
        helper.make_tensor("factors", floats, [3], [1.0, 2.0, 3.0]),
    ]
    graph = helper.make_graph(
        nodes, "mean", [helper.make_tensor_value_info("faces", floats, shape)],
        [helper.make_tensor_value_info("said", floats, [shape[0], 3])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("shape", [["n", 3, 20, 20], [1, 3, 20, 20], ["n", 20, 20, 3]])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_onnx__layouts_batches_and_channels(tmp_path: Path, shape: list[Any], order: Any) -> None:
    pytest.importorskip("onnxruntime")
    teacher = OnnxTeacher(onnx_model(tmp_path / "m.onnx", shape), order=order)
    teacher.prepare(3, CPU)
    assert teacher.size == 20
    faces = np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    means = (faces.mean(axis=(1, 2)) - 127.5) / 127.5
    expected = (means[:, ::-1] if order == "bgr" else means) * [1, 2, 3]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(teacher.embed(faces), expected, atol=1e-4)


def test_onnx__no_such_file_or_no_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    faces = np.zeros((1, 112, 112, 3), np.uint8)
    with pytest.raises(WeightsError, match="no such file"):
        OnnxTeacher(tmp_path / "absent.onnx").embed(faces)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match="cannot be run"):
        OnnxTeacher(tmp_path / "text.onnx").embed(faces)


def test_facenet__its_own_weights_from_a_file(tmp_path: Path) -> None:
    library = pytest.importorskip("facenet_pytorch")
    torch.manual_seed(0)
    network = library.InceptionResnetV1(pretrained=None).eval()
    state = network.state_dict() | {"logits.weight": torch.zeros(5, 512)}
    torch.save(state, tmp_path / "weights.pt")
    faces = np.random.default_rng(1).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = torch.from_numpy(faces).permute(0, 3, 1, 2).float()
        expected = network((pixels - 127.5) / 128)
    teacher = FacenetTeacher(str(tmp_path / "weights.pt"))
    np.testing.assert_allclose(teacher.embed(faces), expected.numpy(), atol=1e-5)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no weights of InceptionResnetV1"):
        FacenetTeacher(str(tmp_path / "other.pt")).embed(faces)


def test_facenet__weights_that_were_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("facenet_pytorch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"vggface2\.pt: no such file.*python -c"):
        FacenetTeacher().embed(np.zeros((1, 160, 160, 3), np.uint8))


def test_ncnn__no_such_file(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    with pytest.raises(WeightsError, match=r"a\.param: no such file"):
        NcnnTeacher(tmp_path / "a.param").embed(np.zeros((1, 112, 112, 3), np.uint8))


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
    said = teacher.embed(np.stack([views.render(row) for row in rows]))
    assert (cached.numpy() * said).sum(axis=1).min() > least
