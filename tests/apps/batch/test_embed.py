"""`mobilevision embed`: the table, going on after any end, faults, and flat memory."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import FaceEmbedder
from mobilevision.apps.batch.faces import RowJob, make_table
from mobilevision.apps.batch.runner import Made, named_files, pack
from mobilevision.apps.batch.tables import Column
from mobilevision.apps.batch.videos import mp4_writer
from mobilevision.apps.inference.face_embedding import model_fingerprint
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.sources import FolderFaces
from mobilevision.datasets.faces.views import FaceViews
from mobilevision.datasets.vectors import read_vectors
from mobilevision.heads.face_embedding.teachers import read_view_table

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model(
    write_face_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_face_checkpoint(tmp_path_factory.mktemp("model") / "face.ckpt")


def write_images(folder: Path, count: int, side: int = 32) -> list[str]:
    rng = np.random.default_rng(0)
    names = [f"{number % 7}/{number:05}.png" for number in range(count)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name)
    return sorted(names)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    write_images(tmp_path / "faces", 9)
    return tmp_path / "faces"


def run(*words: object) -> int:
    return main(["embed", *map(str, words), "--device", "cpu"])


class Counting(RowJob):
    """Rows of two numbers, the length of the file and how many rows it has; remembers the files."""

    columns = (Column("length", None), Column("pair", 2))

    def __init__(self, rows: int = 1) -> None:
        self.depends = {"rows": rows}
        self.rows = rows
        self.seen: list[str] = []

    def __call__(self, files: Any) -> Any:
        for file in files:
            self.seen.append(file.path.name)
            if not file.path.exists():
                yield file, DataError(f"{file.path}: gone")
            elif b"bad" in file.path.read_bytes():
                yield file, DataError(f"{file.path}: bad")
            else:
                size = file.path.stat().st_size
                rows = self.rows if size else 0
                yield file, pack(np.full((rows, 3), [size, 1, 2], np.float32))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three "pictures" of 1, 2 and 3 bytes."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, name in enumerate("abc", 1):
        (folder / f"{name}.jpg").write_bytes(b"x" * number)
    return folder


def lengths(path: Path) -> dict[str, float]:
    table = parquet.read_table(path)
    return dict(zip(table["file"].to_pylist(), table["length"].to_pylist(), strict=True))


# --- the run


def test_make_table__only_what_is_new_is_done(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    make = Counting()
    counts = make_table(out, {"model": "a"}, named_files([str(texts)]), make)
    assert counts == (3, 3, 3, 0, 0)
    assert make.seen == ["a.jpg", "b.jpg", "c.jpg"]
    (texts / "b.jpg").write_bytes(b"xxxxx")
    (texts / "d.jpg").write_bytes(b"xxxx")
    (texts / "a.jpg").unlink()
    make = Counting()
    make_table(out, {"model": "a"}, named_files([str(texts)]), make, {"note": "kept"})
    assert make.seen == ["b.jpg", "d.jpg"]
    assert lengths(out) == {"b.jpg": 5, "c.jpg": 3, "d.jpg": 4}
    metadata = parquet.read_schema(out).metadata
    assert metadata[b"note"] == b"kept"
    assert json.loads(metadata[b"mobilevision"]) == {"model": "a", "rows": 1}


@pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")
@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_make_table__table_and_progress_are_their_owners_alone(
    texts: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    store = tmp_path / f"out{suffix}.progress"
    store.touch(0o666)
    store.chmod(0o666)
    for _ in range(2):
        make_table(out, {}, named_files([str(texts)]), Counting())
        assert out.stat().st_mode & 0o777 == 0o600
        assert store.stat().st_mode & 0o777 == 0o600
        store.unlink()


def test_make_table__other_work__nothing_of_the_old_is_left(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    store = tmp_path / "out.parquet.progress"
    face = pack(np.random.default_rng(0).random((9, 128), np.float32)).content[:64]

    class Faces(Counting):
        columns = (Column("embedding", 128),)

        def __call__(self, files: Any) -> Any:
            for file in files:
                yield file, Made(9, face * 72)

    make_table(out, {"model": "a"}, named_files([str(texts)]), Faces())
    assert face in store.read_bytes()
    make_table(out, {"model": "b"}, named_files([str(texts)]), Counting())
    assert face not in store.read_bytes()


def test_make_table__other_work_begins_anew(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.parquet"
    make_table(out, {"model": "a"}, named_files([str(texts)]), Counting())
    make = Counting(rows=2)
    counts = make_table(out, {"model": "b"}, named_files([str(texts)]), make)
    assert make.seen == ["a.jpg", "b.jpg", "c.jpg"]
    assert counts.rows == 6
    assert "is of a run with another model and rows; starting over" in capsys.readouterr().err


def test_make_table__faults_are_told_and_tried_again(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (texts / "b.jpg").write_bytes(b"bad")
    (texts / "e.jpg").symlink_to(texts / "nowhere")
    (texts / "f.jpg").write_bytes(b"")  # no face
    out = tmp_path / "out.parquet"
    counts = make_table(out, {}, named_files([str(texts)]), Counting())
    assert counts == (5, 3, 2, 1, 2)
    output = capsys.readouterr().out
    assert "3 of 5 files, 2 rows" in output
    assert "1 files without a face have no row" in output
    assert f"{texts / 'b.jpg'}: bad" in output
    assert f"{texts / 'e.jpg'}: gone" in output
    (texts / "b.jpg").write_bytes(b"good")
    make = Counting()
    assert make_table(out, {}, named_files([str(texts)]), make).faults == 1
    assert make.seen == ["b.jpg", "e.jpg"]
    assert lengths(out) == {"a.jpg": 1, "b.jpg": 4, "c.jpg": 3}


def test_make_table__an_exception_keeps_what_was_done(texts: Path, tmp_path: Path) -> None:
    class Breaking(Counting):
        def __call__(self, files: Any) -> Any:
            for number, outcome in enumerate(super().__call__(files)):
                if number == 70:
                    raise KeyboardInterrupt
                yield outcome

    for number in range(97):
        (texts / f"n{number:03}.jpg").write_bytes(b"x")
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        make_table(out, {}, named_files([str(texts)]), Breaking())
    assert not out.exists()
    make = Counting()
    make_table(out, {}, named_files([str(texts)]), make)
    assert len(make.seen) == 100 - 70  # those that were made before it, and none twice
    assert len(lengths(out)) == 100


def test_make_table__no_file_has_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    out = tmp_path / "out.parquet"
    make_table(out, {}, named_files([str(tmp_path)]), Counting())
    assert parquet.read_table(out).num_rows == 0
    assert parquet.read_table(out).column_names == ["file", "length", "pair"]


def test_named_files__one_folder_or_several_words(texts: Path, tmp_path: Path) -> None:
    assert [file.name for file in named_files([str(texts)])] == ["a.jpg", "b.jpg", "c.jpg"]
    several = [str(texts / "c.jpg"), str(texts)]
    names = [file.name for file in named_files(several)]
    assert names == [str(texts / name) for name in ("c.jpg", "a.jpg", "b.jpg", "c.jpg")]
    out = tmp_path / "out.parquet"
    make_table(out, {}, named_files(several), Counting())
    assert list(lengths(out)) == names[:3]  # once, and in the order of the words
    with pytest.raises(DataError, match="no such file or folder"):
        make_table(out, {}, named_files([str(texts), "absent"]), Counting())


def test_model_fingerprint__content_and_not_the_place(tmp_path: Path) -> None:
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.param").write_bytes(b"layers")
        (tmp_path / folder / "net.bin").write_bytes(content)
    a, b, c = (model_fingerprint(f"ncnn:{tmp_path / folder / 'net.param'}") for folder in "abc")
    assert a == b != c
    assert a["kind"] == "ncnn"
    (tmp_path / "a" / "net.param.json").write_text("{}")  # another card, other embeddings
    assert model_fingerprint(f"ncnn:{tmp_path / 'a' / 'net.param'}") != a
    assert model_fingerprint("facenet:absent.pt") == {"kind": "facenet:absent.pt"}


def test_model_fingerprint__a_stored_threshold_leaves_the_model_what_it_is(
    write_face_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    plain = write_face_checkpoint(tmp_path / "a.ckpt")
    metadata = {"verification": {"threshold": 0.4, "far": 0.01}}
    measured = write_face_checkpoint(tmp_path / "b.ckpt", **metadata)
    assert plain.read_bytes() != measured.read_bytes()
    assert model_fingerprint(plain) == model_fingerprint(str(measured))
    content = torch.load(plain, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] += 1
    torch.save(content, tmp_path / "c.ckpt")
    assert model_fingerprint(tmp_path / "c.ckpt") != model_fingerprint(plain)


# --- the command


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_embed__aligned_faces(model: Path, faces: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert run(faces, "--aligned", "--model", model, "--out", out, "--batch-size", 4) == 0
    table = read_vectors(out)
    names = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.png"))
    assert table.files.tolist() == names
    embedder = FaceEmbedder.load(model, device="cpu")
    expected = embedder.embed_aligned([faces / name for name in names])
    np.testing.assert_allclose(table.vectors, expected, atol=1e-5)


def test_embed__faults_give_exit_status_1(
    model: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (faces / "0" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out.parquet"
    assert run(faces, "--aligned", "--model", model, "--out", out) == 1
    captured = capsys.readouterr()
    assert "9 of 10 files, 9 rows" in captured.out
    assert "cut.jpg" in captured.out
    assert len(read_vectors(out).files) == 9
    assert run(faces, "--aligned", "--model", model, "--out", out) == 1
    assert "9 files are done already" in capsys.readouterr().err


def test_embed__views_are_those_that_training_draws(
    model: Path, faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    words = (faces, "--views", 3, "--seed", 5, "--model", model, "--out", out, "--batch-size", 2)
    assert run(*words) == 0
    table = read_view_table(out)
    source = FolderFaces(faces).read()
    views = FaceViews(source, 32, seed=5)
    assert table.fingerprint == views.fingerprint
    assert table.views.tolist() == [0, 1, 2] * 9
    assert table.files.tolist() == [name for name in source.files for _ in range(3)]
    crops = [views.render(index, view) for index in range(9) for view in range(3)]
    expected = FaceEmbedder.load(model, device="cpu").embed_aligned(crops)
    np.testing.assert_allclose(table.embeddings, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--aligned", "--faces", "largest"], "exclude each other"),
        (["--aligned", "--views", "2"], "exclude each other"),
        (["--batch-size", "0"], "at least 1"),
        (["--views", "0"], "at least 1"),
    ],
)
def test_embed__options_that_cannot_be(
    model: Path, faces: Path, tmp_path: Path, words: list[str], message: str,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        run(faces, "--model", model, "--out", tmp_path / "out.parquet", *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xlsx", [], "ends in .parquet or .csv"),
        ("out.csv", ["--views", "2"], "ends in .parquet\n"),
    ],
)
def test_embed__another_ending(
    model: Path,
    faces: Path,
    name: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        run(faces, "--model", model, "--out", name, *options)
    assert message in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.usefixtures("public_retinaface")
def test_embed__faces_found_in_images(model: Path, real_data: Path, tmp_path: Path) -> None:
    images = [
        real_data / "coco" / "val2017" / name for name in ("000000005001.jpg", "000000000139.jpg")
    ]
    out = tmp_path / "out.parquet"
    assert run(*images, "--model", model, "--out", out) == 0
    table = parquet.read_table(out).to_pydict()
    expected = FaceEmbedder.load(model, device="cpu")(images)
    assert [len(own) for own in expected] == [len(table["file"]), 0]
    assert table["file"] == [str(images[0])] * len(expected[0])
    assert table["face"] == list(range(len(expected[0])))
    for row, face in enumerate(expected[0]):
        np.testing.assert_allclose(table["box"][row], face.box, atol=1e-3)
        np.testing.assert_allclose(table["landmarks"][row], face.landmarks.ravel(), atol=1e-3)
        np.testing.assert_allclose(table["embedding"][row], face.embedding, atol=1e-5)
        assert table["score"][row] == pytest.approx(face.score, abs=1e-6)
    assert run(*images, "--faces", "largest", "--model", model, "--out", out) == 0
    assert read_vectors(out).files.tolist() == [str(images[0])]


@pytest.mark.real_data
@pytest.mark.parametrize("options", [[], ["--detector", "mtcnn", "--faces", "center"]])
@pytest.mark.usefixtures("public_retinaface")
def test_find_faces__table_that_the_data_sets_take(
    real_data: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("facenet_pytorch")
    folder = tmp_path / "faces"
    folder.mkdir()
    for path in sorted((real_data / "celeba" / "img_align_celeba").glob("*.jpg"))[:3]:
        (folder / path.name).symlink_to(path)
    Image.new("RGB", (50, 50)).save(folder / "black.png")
    out = tmp_path / "landmarks.parquet"
    words = ["data", "find-faces", str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*words, *options]) == 0
    source = FolderFaces(folder, landmarks=out).read()
    assert len(source.files) == 3
    assert source.landmarks_xy is not None
    assert np.abs(source.landmarks_xy[:, :2, 1] - 111).max() < 8  # CelebA's eyes are in this row
    assert main([*words, *options]) == 0
    assert "4 files are done already" in capsys.readouterr().err
    others = ["--detector", "mtcnn"] if not options else []
    assert main([*words, *others, "--faces", "largest"]) == 0
    changed = "detector and faces" if options else "detector"
    assert f"is of a run with another {changed}; starting over" in capsys.readouterr().err


# --- killed, and large


SLOW = """
import sys, time
from mobilevision.apps.inference.torch import TorchRuntime
from mobilevision.apps.main import main
run = TorchRuntime.__call__
def slowly(self, faces):
    time.sleep(0.05)
    return run(self, faces)
TorchRuntime.__call__ = slowly
raise SystemExit(main(sys.argv[1:]))
"""


def rows_on_disk(store: Path) -> int:
    if not store.is_file():
        return 0
    connection = sqlite3.connect(f"file:{store}?mode=rw", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM results").fetchone()[0]
    except sqlite3.Error:  # not made yet, or being written
        return 0
    finally:
        connection.close()


def test_embed__killed_twice_loses_and_repeats_no_row(model: Path, tmp_path: Path) -> None:
    names = write_images(tmp_path / "faces", 400)
    out, store = tmp_path / "out.parquet", tmp_path / "out.parquet.progress"
    words = ["embed", str(tmp_path / "faces"), "--aligned", "--model", str(model),
             "--out", str(out), "--batch-size", "8", "--device", "cpu"]  # fmt: skip
    before = 0
    for _ in range(2):
        worker = subprocess.Popen([sys.executable, "-c", SLOW, *words], stderr=subprocess.DEVNULL)
        while rows_on_disk(store) < before + 64 and worker.poll() is None:
            time.sleep(0.01)
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
        before = rows_on_disk(store)
        assert 64 <= before < 400
        assert not out.exists()
    assert main(words) == 0
    table = read_vectors(out)
    assert table.files.tolist() == names
    embedder = FaceEmbedder.load(model, device="cpu")
    expected = embedder.embed_aligned([tmp_path / "faces" / name for name in names])
    np.testing.assert_allclose(table.vectors, expected, atol=1e-5)


COMMAND = """
import sys
from mobilevision.apps.main import main
assert main(sys.argv[1:]) == 0
print(open("/proc/self/status").read())
"""

WIDE_ROWS = """
import sys
from pathlib import Path
import numpy as np
from mobilevision.apps.batch.faces import RowJob, make_table
from mobilevision.apps.batch.runner import named_files, pack
from mobilevision.apps.batch.tables import Column
from mobilevision.apps.batch.videos import mp4_writer
class Wide(RowJob):
    columns, depends = (Column("embedding", 1024),), {}
    def __call__(self, files):
        for number, file in enumerate(files):
            yield file, pack(np.full((1, 1024), number, np.float32))
folder, out = sys.argv[1:]
make_table(Path(out), {}, named_files([folder]), Wide())
print(open("/proc/self/status").read())
"""


def peak_mb(program: str, *words: object) -> float:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
    )
    # Not getrusage: its peak is that of the parent, where the process was forked from a larger one.
    (peak,) = [line for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")


@pytest.mark.slow
@on_linux
def test_embed__memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), (90, 120, 60)).save(tmp_path / "face.png")
    peaks = []
    for count in (300, 2500):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").hardlink_to(tmp_path / "face.png")
        out = tmp_path / f"{count}.parquet"
        words = ("embed", folder, "--aligned", "--size", 128, "--model", model, "--out", out)
        peaks.append(peak_mb(COMMAND, *words, "--device", "cpu"))
        assert parquet.read_metadata(out).num_rows == count
    print(f"peak {peaks[0]:.1f} MB for 300 images, {peaks[1]:.1f} MB for 2,500")
    assert peaks[1] < peaks[0] + 80  # the images would be 108 MB more


@on_linux
def test_make_table__memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (5000, 25_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").touch()
        out = tmp_path / f"{count}.parquet"
        peaks.append(peak_mb(WIDE_ROWS, folder, out))
        assert parquet.read_metadata(out).num_rows == count
    print(f"peak {peaks[0]:.1f} MB for 5,000 rows, {peaks[1]:.1f} MB for 25,000")
    assert peaks[1] < peaks[0] + 50  # the rows would be 82 MB more


def test_make_table__video_with_a_row_for_each_frame(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_images(folder, 1)
    with mp4_writer(folder / "clip.mp4", fps=5) as writer:
        for level in (20, 200):
            writer.write(np.full((32, 32, 3), level, np.uint8))
    out = tmp_path / "out.parquet"
    assert run(folder, "--aligned", "--model", model, "--out", out) == 0
    rows = parquet.read_table(out).to_pylist()
    assert [(row["file"], row["frame"]) for row in rows] == [
        ("clip.mp4", 0), ("clip.mp4", 1), ("0/00000.png", 0)
    ]  # fmt: skip
    assert [row["time_s"] for row in rows] == pytest.approx([0, 0.2, 0])
    assert not np.allclose(rows[0]["embedding"], rows[1]["embedding"])
