"""The gallery: exact search, private files, processes that take turns, removal to the bytes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from mobilevision.apps.faces.gallery import Enrolled, Gallery, Match, accepted
from mobilevision.apps.inference.face_pipeline import Threshold
from mobilevision.datasets.errors import DataError, SharedFilesWarning

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
    assert gallery.enroll("Bea", unit(1)).total == 1
    assert gallery.enroll("Ada", unit(2, seed=1)).total == 2
    assert gallery.enroll("Bea", unit(1, seed=2)).total == 2
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
    assert gallery.enroll("Ada", unit(1)).total == 1


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


def test_remove__some_faces_of_a_person(gallery: Gallery) -> None:
    rows = unit(3)
    gallery.enroll("Ada", rows, ["a", "b", "c"])
    gallery.enroll("Bea", unit(1, seed=1), ["d"])
    assert gallery.remove("Ada", ["b", "d", "never there"]) == 1
    assert files_with(gallery.folder, rows[1].tobytes()) == []
    assert gallery.people() == {"Ada": 2, "Bea": 1}
    with pytest.raises(DataError, match="Ada was not enrolled with these images"):
        gallery.remove("Ada", ["b", "d"])
    with pytest.raises(DataError, match="nobody called 'Cem'"):
        gallery.remove("Cem", ["a"])
    assert gallery.remove("Ada", ["a", "c"]) == 2
    assert gallery.people() == {"Bea": 1}


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
    with pytest.raises(DataError, match="enroll the people again in another folder"):
        Gallery.create(gallery.folder, {**MODEL, "sha256": "1" * 64}, 16)


def test_open__no_gallery_or_another_format(tmp_path: Path, gallery: Gallery) -> None:
    with pytest.raises(DataError, match="no gallery"):
        Gallery(tmp_path / "elsewhere")
    (gallery.folder / "gallery.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99"):
        Gallery(gallery.folder)
    (gallery.folder / "gallery.json").write_text("{")
    with pytest.raises(DataError, match="damaged, is not a JSON file"):
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


FULL_DISK = RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), a.rs")


def raise_full_disk(*_: object) -> None:
    raise FULL_DISK


def test_enroll__again__changes_nothing(gallery: Gallery) -> None:
    rows = unit(3)
    assert gallery.enroll("Ada", rows) == Enrolled(3, 0, {}, 3)
    assert gallery.enroll("Ada", rows) == Enrolled(0, 3, {}, 3)
    twice = np.concatenate([unit(1, seed=1), unit(1, seed=1), rows[:1]])
    assert gallery.enroll("Ada", twice) == Enrolled(1, 2, {}, 4)
    assert gallery.people() == {"Ada": 4}


def test_enroll__keys_say_which_faces_are_the_same(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(2), ["a", "b"])
    assert gallery.enroll("Ada", unit(2, seed=1), ["b", "c"]) == Enrolled(1, 1, {}, 3)
    with pytest.raises(DataError, match="1 keys for 2 embeddings"):
        gallery.enroll("Ada", unit(2), ["a"])


def test_enroll__face_of_another_person_stays_with_them(gallery: Gallery) -> None:
    rows = unit(3)
    gallery.enroll("Ada", rows[:1])
    assert gallery.enroll("Bea", rows) == Enrolled(2, 0, {0: "Ada"}, 2)
    assert gallery.people() == {"Ada": 1, "Bea": 2}
    gallery.remove("Ada")
    assert gallery.enroll("Bea", rows) == Enrolled(1, 2, {}, 3)


def test_enroll__faces_with_random_ids_of_an_older_version(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit(40)
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "_id", lambda *_: uuid.uuid4().hex)
        gallery.enroll("Ada", rows)
    noise = 1e-5 * unit(40, seed=1)  # as another batch size rounds
    keys = [f"picture {number}" for number in range(40)]
    assert gallery.enroll("Ada", (rows + noise)[:30], keys[:30]) == Enrolled(0, 30, {}, 40)
    assert gallery.enroll("Bea", unit(1, seed=2), ["b"]) == Enrolled(1, 0, {}, 1)
    assert gallery.enroll("Bea", rows[35:36], keys[35:36]) == Enrolled(0, 0, {0: "Ada"}, 1)
    assert gallery.people() == {"Ada": 40, "Bea": 1}
    for row in rows[[0, 29, 39]]:
        assert gallery.identify(row[None])[0][0] == pytest.approx(("Ada", 1.0), abs=1e-5)


def test_enroll__tidying_fails__no_failure_and_the_next_access_tidies(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enroll("Ada", unit(2))
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "_tidy", raise_full_disk)
        assert gallery.enroll("Ada", unit(1, seed=1)) == Enrolled(1, 0, {}, 3)
        assert gallery.people() == {"Ada": 3}
        assert len(gallery.identify(unit(1))[0]) == 1
    manifests = list((gallery.folder / "faces.lance" / "_versions").glob("*.manifest"))
    assert len(manifests) > 1
    assert gallery.people() == {"Ada": 3}
    assert len(list((gallery.folder / "faces.lance" / "_versions").glob("*.manifest"))) == 1


def test_remove__traces_that_cannot_be_cleared_are_said(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enroll("Zaphod Beeblebrox", unit(1))
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "_tidy", raise_full_disk)
        with pytest.raises(DataError, match="could not be deleted"):
            gallery.remove("Zaphod Beeblebrox")
    assert files_with(gallery.folder, b"Zaphod")
    with pytest.raises(DataError, match="nobody"):
        gallery.remove("Zaphod Beeblebrox")
    assert files_with(gallery.folder, b"Zaphod") == []


def test_read__where_nothing_can_be_written(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enroll("Ada", unit(2))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    assert Gallery(gallery.folder).people() == {"Ada": 2}
    assert gallery.identify(unit(1))[0][0].name == "Ada"
    with pytest.raises(OSError, match="Read-only"):
        gallery.enroll("Ada", unit(1, seed=1))


posix = pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")


def rights(folder: Path) -> set[tuple[str, int]]:
    """Kind and rights of a folder and of all that is in it."""
    return {
        ("folder" if path.is_dir() else "file", path.stat().st_mode & 0o777)
        for path in (folder, *folder.rglob("*"))
    }


PRIVATE = {("folder", 0o700), ("file", 0o600)}


@posix
@pytest.mark.usefixtures("open_umask")
def test_files__are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "people"
    gallery = Gallery.create(folder, MODEL, 16)
    assert rights(folder) == PRIVATE
    gallery.enroll("Ada", unit(2))
    assert rights(folder) == PRIVATE
    gallery.enroll("Bea", unit(2, seed=1))
    gallery.remove("Ada")
    assert rights(folder) == PRIVATE
    monkeypatch.setattr(Gallery, "_tidy", raise_full_disk)
    gallery.enroll("Cem", unit(2, seed=2))
    assert (folder / ".changing").exists()
    assert rights(folder) == PRIVATE


@posix
def test_open__gallery_that_others_can_read__narrowed_and_said_once(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(2))
    for path in (gallery.folder, *gallery.folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o664)
    with pytest.warns(SharedFilesWarning, match="others could read these faces; only you can"):
        Gallery(gallery.folder)
    assert rights(gallery.folder) == PRIVATE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Gallery(gallery.folder).people() == {"Ada": 2}


@posix
def test_create__leaves_a_folder_of_other_things_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other things, such as 'notes.txt'"):
        Gallery.create(tmp_path, MODEL, 16)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    with pytest.raises(DataError, match="a file is in the way"):
        Gallery.create(tmp_path / "notes.txt", MODEL, 16)
    with pytest.raises(DataError, match="no gallery"):
        Gallery(tmp_path / "notes.txt")


WHOLE = {"format": 1, "model": MODEL, "dimension": 16, "threshold": [0.4, 0.001]}
"""As the first galleries had it."""


def test_open__first_galleries_threshold_alone(gallery: Gallery) -> None:
    (gallery.folder / "gallery.json").write_text(json.dumps(WHOLE))
    assert Gallery(gallery.folder).threshold == Threshold(0.4, 0.001)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        *(
            json.dumps({**WHOLE, **wrong}).encode()
            for wrong in (
                {"model": None},
                {"model": "face.ckpt"},
                {"dimension": 0},
                {"dimension": "16"},
                {"dimension": 16.0},
                {"dimension": True},
                {"threshold": 0.4},
                {"threshold": [0.4]},
                {"threshold": ["0.4", 0.001]},
                {"threshold": [float("nan"), 0.001]},
                {"threshold": [1.5, 0.001]},
                {"threshold": [0.4, -1]},
                {"verification": [0.4, 0.001]},
                {"verification": {"threshold": 0.4, "far": 2}},
            )
        ),
        json.dumps({"format": 1}).encode(),
    ],
)
def test_open__damaged_facts__file_and_remedy(gallery: Gallery, content: bytes) -> None:
    (gallery.folder / "gallery.json").write_bytes(content)
    for use in (Gallery, lambda folder: Gallery.create(folder, MODEL, 16)):
        with pytest.raises(DataError, match=r"gallery\.json: damaged, .*Restore the file"):
            use(gallery.folder)


def test_open__facts_of_another_dimension_than_the_faces(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(1))
    (gallery.folder / "gallery.json").write_text(json.dumps({**WHOLE, "dimension": 8}))
    with pytest.raises(DataError, match=r"gallery\.json: damaged, .* 8, .* 16 numbers"):
        Gallery(gallery.folder).people()


@pytest.mark.parametrize("pattern", ["_versions/*.manifest", "data/*"])
def test_read__damaged_files_of_the_table(gallery: Gallery, pattern: str) -> None:
    gallery.enroll("Ada", unit(1))
    damaged = list((gallery.folder / "faces.lance").glob(pattern))
    assert damaged
    for path in damaged:
        path.write_bytes(b"\0" * 70)
    for use in (gallery.people, lambda: gallery.enroll("Bea", unit(1, seed=1))):
        with pytest.raises(DataError, match=r"faces\.lance: damaged, .*Restore the file"):
            use()


def test_create__facts_missing_beside_faces(gallery: Gallery) -> None:
    gallery.enroll("Ada", unit(1))
    (gallery.folder / "gallery.json").unlink()
    with pytest.raises(DataError, match=r"gallery\.json: missing"):
        Gallery.create(gallery.folder, MODEL, 16)


def test_names__bytes_that_are_no_text(gallery: Gallery) -> None:
    with pytest.raises(DataError, match=r"'Ad\\udce9' is not valid Unicode"):
        gallery.enroll("Ad\udce9", unit(1))
    with pytest.raises(DataError, match="nobody called"):
        gallery.remove("Ad\udce9")
    assert gallery.people() == {}


KILLED = """
import os, signal, sys, numpy as np
from mobilevision.apps.faces import gallery as module
folder, place = sys.argv[1:]
gallery = module.Gallery.create(folder, {"model": "face.ckpt"}, 16)
owner, name = {
    "opening": (module.Gallery, "_opened"),
    "before the commit": (module.Gallery, "_rows"),
    "after the commit": (module.Gallery, "_finish"),
    "while tidying": (module.Gallery, "_tidy"),
    "after tidying": (module, "make_private"),
}[place]
original = getattr(owner, name)

def killed(*arguments):
    if place == "while tidying":  # some versions are gone by then
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, killed)
gallery.enroll("Ada", np.random.default_rng(5).normal(size=(7, 16)))
"""


@posix
@pytest.mark.parametrize(
    ("place", "stored"),
    [
        ("opening", 0),
        ("before the commit", 0),
        ("after the commit", 7),
        ("while tidying", 7),
        ("after tidying", 7),
    ],
)
def test_enroll__killed_and_repeated__each_face_once(
    tmp_path: Path, place: str, stored: int
) -> None:
    folder = tmp_path / "people"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), place], check=False)
    assert done.returncode == -signal.SIGKILL
    gallery = Gallery.create(folder, {"model": "face.ckpt"}, 16)
    rows = np.random.default_rng(5).normal(size=(7, 16))
    assert gallery.enroll("Ada", rows) == Enrolled(7 - stored, stored, {}, 7)
    assert gallery.people() == {"Ada": 7}
    assert rights(folder) == PRIVATE
    assert not (folder / ".changing").exists()
