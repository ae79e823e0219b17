"""The gallery: exact search, processes that take turns, and removal down to the bytes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from mobilevision.apps.faces.gallery import Gallery, Match, accepted
from mobilevision.apps.faces.results import Threshold
from mobilevision.datasets.errors import DataError

pytest.importorskip("lancedb")
MODEL = {"model": "face.ckpt", "sha256": "0" * 64, "size": 112}


def unit(count: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.create(tmp_path / "people", MODEL, 16, Threshold(0.4, 0.001))


def files_with(folder: Path, content: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


def test_identify__nearest_person_with_the_cosine(gallery: Gallery) -> None:
    rows = unit(3)
    gallery.enroll("Ada", rows[:2] * 7)  # the length is not kept
    gallery.enroll("Bea", rows[2:])
    query = rows[1] + 0.2 * rows[2]
    cosines = rows @ query / np.linalg.norm(query)
    (matches,) = gallery.identify(query[None], count=5)
    assert [match.name for match in matches] == ["Ada", "Bea"]
    np.testing.assert_allclose(
        [match.similarity for match in matches], [max(cosines[:2]), cosines[2]], atol=1e-5
    )


def test_identify__person_with_many_faces_does_not_hide_others(gallery: Gallery) -> None:
    centre = unit(1)[0]
    gallery.enroll("Ada", centre + 0.01 * unit(100, seed=1))
    gallery.enroll("Bea", unit(1, seed=2))
    (matches,) = gallery.identify(centre[None], count=2)
    assert [match.name for match in matches] == ["Ada", "Bea"]


def test_identify__empty_gallery_and_no_faces(gallery: Gallery) -> None:
    assert gallery.identify(unit(2)) == [[], []]
    assert gallery.people() == {}
    assert gallery.identify(np.empty((0, 16), np.float32)) == []


def test_people__counts_over_several_enrolments(gallery: Gallery) -> None:
    assert gallery.enroll("Bea", unit(1)) == 1
    assert gallery.enroll("Ada", unit(2, seed=1)) == 2
    assert gallery.enroll("Bea", unit(1, seed=2)) == 2
    assert list(gallery.people().items()) == [("Ada", 2), ("Bea", 2)]


def test_remove__no_byte_is_left(gallery: Gallery) -> None:
    rows = unit(200)
    gallery.enroll("many others", rows[1:])
    gallery.enroll("Zaphod Beeblebrox", rows[:1])
    name, vector = b"Zaphod Beeblebrox", rows[0].tobytes()
    assert files_with(gallery.folder, name), "or the test would not see them anyway"
    assert files_with(gallery.folder, vector)
    assert gallery.remove("Zaphod Beeblebrox") == 1  # half a percent: Lance alone would keep it
    assert files_with(gallery.folder, name) == []
    assert files_with(gallery.folder, vector) == []
    assert gallery.people() == {"many others": 199}
    (matches,) = gallery.identify(rows[5:6])
    assert matches[0].similarity == pytest.approx(1.0, abs=1e-6)


def test_remove__last_person(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(2))
    assert gallery.remove("Ada") == 2
    assert gallery.people() == {}
    assert gallery.enroll("Ada", unit(1)) == 1


def test_remove__interrupted_after_the_rewrite_is_finished_by_the_next(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enroll("Zaphod Beeblebrox", unit(1))
    gallery.enroll("Ada", unit(20, seed=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "_tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            gallery.remove("Zaphod Beeblebrox")
    assert files_with(gallery.folder, b"Zaphod"), "the older version is still there"
    assert Gallery(gallery.folder).people() == {"Ada": 20}
    assert files_with(gallery.folder, b"Zaphod") == []


@pytest.mark.parametrize("name", ["O'Brien", 'a "b" \\', "名前", "x' OR 'a'='a"])
def test_remove__names_of_any_letters(gallery: Gallery, name: str) -> None:
    gallery.enroll(name, unit(1))
    gallery.enroll("Ada", unit(1, seed=1))
    assert gallery.remove(name) == 1
    assert gallery.people() == {"Ada": 1}


def test_remove__unknown_person(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(1))
    with pytest.raises(DataError, match="nobody called 'Bea'"):
        gallery.remove("Bea")
    assert gallery.people() == {"Ada": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (unit(1, 8), "have 16 numbers"),
        (unit(1)[0], "have 16 numbers"),
        (np.zeros((1, 16)), "length zero"),
        (np.full((1, 16), np.nan), "not finite"),
    ],
)
def test_enroll__embeddings_that_cannot_be(
    gallery: Gallery, rows: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        gallery.enroll("Ada", rows)
    with pytest.raises(DataError, match=message):
        gallery.identify(rows)
    assert gallery.people() == {}


def test_enroll__nameless(gallery: Gallery) -> None:
    with pytest.raises(DataError, match="needs a name"):
        gallery.enroll(" ", unit(1))


def test_open__keeps_model_and_threshold(gallery: Gallery) -> None:
    again = Gallery(gallery.folder)
    assert again.model == MODEL
    assert again.threshold == Threshold(0.4, 0.001)
    assert again.dimension == 16


def test_create__another_model(gallery: Gallery) -> None:
    with pytest.raises(DataError, match="enrol the people anew in another folder"):
        Gallery.create(gallery.folder, {**MODEL, "sha256": "1" * 64}, 16)


def test_open__no_gallery_or_another_format(tmp_path: Path, gallery: Gallery) -> None:
    with pytest.raises(DataError, match="no gallery"):
        Gallery(tmp_path / "elsewhere")
    (gallery.folder / "gallery.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99"):
        Gallery(gallery.folder)
    (gallery.folder / "gallery.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        Gallery(gallery.folder)


def test_accepted__threshold_belongs_to_one_person() -> None:
    matches = [Match("Ada", 0.5), Match("Bea", 0.4), Match("Cem", 0.39)]
    assert [match.name for match in accepted(matches, 0.4)] == ["Ada", "Bea"]


def enroll_and_remove(folder: Path, number: int) -> None:
    """What each of the processes does: ten people, of whom five are removed again."""
    gallery = Gallery.create(folder, MODEL, 16)
    rows = unit(10, seed=100 + number)
    for index, row in enumerate(rows):
        name = f"person {number}-{index}"
        gallery.enroll(name, row[None])
        (matches,) = gallery.identify(row[None])
        assert matches[0].name == name
        if index % 2:
            gallery.remove(name)


def test_two_processes__nothing_is_lost_and_nothing_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "people"
    workers = [
        context.Process(target=enroll_and_remove, args=(folder, number)) for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = {f"person {number}-{index}": 1 for number in range(2) for index in range(0, 10, 2)}
    assert Gallery(folder).people() == expected
    for number in range(2):
        rows = unit(10, seed=100 + number)
        assert files_with(folder, rows[0].tobytes())
        assert files_with(folder, rows[1].tobytes()) == []


ENDLESS = """
import sys, numpy as np
from mobilevision.apps.faces.gallery import Gallery
gallery = Gallery(sys.argv[1])
rows = np.random.default_rng(5).normal(size=(40, 16))
while True:
    gallery.enroll("passing", rows)
    print("enrolled", flush=True)
    gallery.remove("passing")
"""


def test_killed_process__gallery_stays_whole(gallery: Gallery) -> None:
    rows = unit(30)
    gallery.enroll("Ada", rows)
    for wait_s in (0.0, 0.02, 0.05):
        worker = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(gallery.folder)], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"enrolled\n"
        time.sleep(wait_s)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        people = gallery.people()
        assert people.pop("passing", 40) % 40 == 0  # whole enrolments or none
        assert people == {"Ada": 30}
    there = "passing" in gallery.people()
    with nullcontext() if there else pytest.raises(DataError, match="nobody"):
        gallery.remove("passing")  # also clears what the last process left behind
    passing = np.random.default_rng(5).normal(size=(40, 16))
    lengths = np.linalg.norm(passing, axis=1, keepdims=True)
    assert files_with(gallery.folder, (passing / lengths).astype(np.float32)[0].tobytes()) == []
    (matches,) = gallery.identify(rows[:1])
    assert matches[0].name == "Ada"


def test_remove__interrupted_before_traces_were_cleared__once_more_clears_them(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = np.random.default_rng(5).normal(size=(4, 16))
    trace = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)[0].tobytes()
    gallery.enroll("Ada", unit(3))
    gallery.enroll("passing", faces)

    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "_tidy", lambda *_: None)  # as if the process had ended there
        gallery.remove("passing")
    assert gallery.people() == {"Ada": 3}
    assert files_with(gallery.folder, trace)

    with pytest.raises(DataError, match="nobody"):
        gallery.remove("passing")
    assert files_with(gallery.folder, trace) == []
    assert gallery.people() == {"Ada": 3}
