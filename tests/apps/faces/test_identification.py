"""`mobilevision gallery`: from images to people on the command line."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import FaceEmbedder, Gallery
from mobilevision.apps.main import main
from mobilevision.heads.face_embedding.threshold import NOT_BY_GROUP, Threshold

pytest.importorskip("lancedb")


@pytest.fixture
def model(write_face_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    metadata = {"verification": {"threshold": 0.9, "far": 0.01}}
    return write_face_checkpoint(tmp_path / "face.ckpt", **metadata)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return tmp_path / "people"


def face(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def gallery(*words: object) -> int:
    return main(["gallery", *map(str, words)])


def enroll(name: str, people: Path, model: Path, *words: object) -> int:
    return gallery("enroll", name, *words, "--gallery", people, "--model", model,
                   "--aligned", "--device", "cpu")  # fmt: skip


def identify(people: Path, model: Path, *words: object) -> int:
    return gallery("identify", *words, "--gallery", people, "--model", model,
                   "--aligned", "--device", "cpu")  # fmt: skip


def test_enroll_identify_list_remove(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a1, a2, b = (
        face(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("a1", "a2", "b"))
    )
    assert enroll("Ada", people, model, a1, a2) == 0
    assert enroll("Bea", people, model, b) == 0
    said = capsys.readouterr().out
    assert f"Ada: 2 faces added, 2 in {people}" in said
    assert gallery("list", "--gallery", people, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"Ada": 2, "Bea": 1}

    stranger = face(tmp_path / "c.png", 99)
    embedder = FaceEmbedder.load(model, device="cpu")
    rows = embedder.embed_aligned([a1, a2, b, stranger])
    assert (rows[:3] @ rows[3]).max() < 0.9, "or it would be no stranger"
    assert identify(people, model, a2, b, stranger) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines == [f"{a2}: Ada 1.000", f"{b}: Bea 1.000", f"{stranger}: unknown"]
    assert captured.err.splitlines() == [
        "threshold 0.9000: 1% of pairs of different people reached it",
        # 1 - 0.99^2
        "a stranger is taken for one of 2 people with a chance of about 1.99%, more if they have "
        "several faces each",
        NOT_BY_GROUP,
    ]

    assert gallery("remove", "Ada", "--gallery", people) == 0
    assert "Ada: 2 faces removed" in capsys.readouterr().out
    assert identify(people, model, a2, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(a2), "box": None, "people": [],
        "search": {"threshold": 0.9, "people": 1, "far": 0.01, "chance_of_stranger": 0.01,
                   "dataset": None, "groups": None},
    }  # fmt: skip
    assert gallery("list", "--gallery", people) == 0
    assert capsys.readouterr().out.split() == ["1", "Bea"]


def test_enroll__again_or_as_another_person(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b, c = (face(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc"))
    assert enroll("Ada", people, model, a, b) == 0
    copy = tmp_path / "copy of a.png"
    copy.write_bytes(a.read_bytes())
    assert enroll("Ada", people, model, a, copy, c) == 0
    assert f"Ada: 1 faces added, 2 there already, 3 in {people}" in capsys.readouterr().out
    assert enroll("Bea", people, model, b) == 1
    said = capsys.readouterr().out
    assert "Bea: 0 faces added, 0 in" in said
    assert f"{b}: enrolled as Ada already; leave it out, or remove Ada first" in said
    assert Gallery(people).people() == {"Ada": 3}


def test_enroll__name_that_is_no_text__before_anything_is_made(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        enroll("Ad\udce9", people, model, face(tmp_path / "a.png", 0))
    assert ended.value.code == 2
    assert r"error: the name 'Ad\udce9' is not valid Unicode" in capsys.readouterr().err
    assert not people.exists()


@pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")
def test_list__gallery_that_others_can_read__said_once(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    enroll("Ada", people, model, face(tmp_path / "a.png", 0))
    people.chmod(0o755)
    capsys.readouterr()
    assert gallery("list", "--gallery", people) == 0
    warning, *errors = capsys.readouterr().err.splitlines()
    assert warning == f"warning: {people}: others could read these faces; only you can from now on"
    assert errors == ["threshold 0.9000: 1% of pairs of different people reached it", NOT_BY_GROUP]
    assert gallery("list", "--gallery", people) == 0
    assert capsys.readouterr().err.splitlines() == errors


def test_identify__threshold_and_count_of_the_user(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = face(tmp_path / "a.png", 0), face(tmp_path / "b.png", 1)
    enroll("Ada", people, model, a)
    enroll("Bea", people, model, b)
    rows = FaceEmbedder.load(model, device="cpu").embed_aligned([a, b])
    alike = float(rows[0] @ rows[1])
    capsys.readouterr()
    assert identify(people, model, a, "--threshold", alike - 0.01, "--count", 2, "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["people"]
    assert [person["name"] for person in found] == ["Ada", "Bea"]
    assert found[1]["similarity"] == pytest.approx(alike, abs=1e-3)
    assert json.loads(captured.out)["search"] == {
        "threshold": pytest.approx(alike - 0.01), "people": 2
    }  # fmt: skip
    assert "as given: its errors were not measured" in captured.err
    assert identify(people, model, a, "--threshold", alike + 0.01, "--count", 2, "--json") == 0
    assert [p["name"] for p in json.loads(capsys.readouterr().out)["people"]] == ["Ada"]


def test_remove__one_image_of_a_person(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = face(tmp_path / "a.png", 0), face(tmp_path / "b.png", 1)
    enroll("Ada", people, model, a, b)
    moved = a.rename(tmp_path / "the same content.png")
    assert gallery("remove", "Ada", moved, "--gallery", people) == 0
    assert "Ada: 1 faces removed" in capsys.readouterr().out
    assert Gallery(people).people() == {"Ada": 1}
    with pytest.raises(SystemExit) as ended:
        gallery("remove", "Ada", moved, "--gallery", people)
    assert ended.value.code == 2
    assert "Ada was not enrolled with these images" in capsys.readouterr().err
    assert gallery("remove", "Ada", "--gallery", people) == 0
    assert Gallery(people).people() == {}


def test_identify__errors_by_group(
    write_face_checkpoint: Callable[..., Path],
    people: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    rates = {"faces": 9, "people": 4, "genuine": 120, "impostors": 200}
    groups = {
        "all": {**rates, "far": 0.02, "frr": 0.03},
        "Hat: yes": {**rates, "far": 0.1, "frr": None},
        "Hat: no": {**rates, "far": 0.0, "frr": 0.25},
    }
    measured = {"threshold": 0.5, "far": 0.01, "dataset": "hats", "impostor_pairs": 300}
    face_model = write_face_checkpoint(tmp_path / "face.ckpt", verification=measured)
    a, b = face(tmp_path / "a.png", 0), face(tmp_path / "b.png", 1)
    enroll("Ada", people, face_model, a)
    assert Gallery(people).threshold == Threshold(0.5, 0.01, "hats", 300)
    # What is measured later travels into the gallery with the next enrollment.
    face_model = write_face_checkpoint(face_model, verification={**measured, "groups": groups})
    enroll("Bea", people, face_model, b)
    kept = Gallery(people).threshold
    assert kept is not None
    assert kept.groups is not None
    assert kept.groups["Hat: no"].frr == 0.25
    capsys.readouterr()
    assert identify(people, face_model, a, "--json") == 0
    captured = capsys.readouterr()
    search = json.loads(captured.out)["search"]
    assert search["chance_of_stranger"] == pytest.approx(1 - 0.99**2)
    assert search["groups"]["Hat: yes"] == {"far": 0.1, "frr": None}
    assert captured.err.splitlines() == [
        "threshold 0.5000: 1% of 300 pairs of different people reached it on hats",
        "a stranger is taken for one of 2 people with a chance of about 1.99%, more if they have "
        "several faces each",
        "false accepts and false rejects by group: all 2%, 3%; Hat: yes 10%, too few pairs; "
        "Hat: no 0%, 25%",
        "most false accepts: Hat: yes, 10%, 19% in a search among 2 of them",
        "most false rejects: Hat: no, 25%",
    ]


def test_enroll__unreadable_images_are_told_and_others_enrolled(
    model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    assert enroll("Ada", people, model, face(tmp_path / "a.png", 0), tmp_path / "cut.png") == 1
    said = capsys.readouterr().out
    assert "1 faces added" in said
    assert "cut.png" in said
    assert Gallery(people).people() == {"Ada": 1}
    assert identify(people, model, tmp_path / "cut.png", tmp_path / "a.png", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["people"][0]["name"] == "Ada"
    assert "cut.png" in captured.err


def test_gallery__another_model_or_none(
    write_face_checkpoint: Callable[..., Path], model: Path, people: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    a = face(tmp_path / "a.png", 0)
    with pytest.raises(SystemExit):
        identify(people, model, a)
    assert "no gallery" in capsys.readouterr().err
    unmeasured = write_face_checkpoint(tmp_path / "unmeasured.ckpt")
    assert enroll("Ada", people, unmeasured, a) == 0
    with pytest.raises(SystemExit):
        identify(people, unmeasured, a)
    assert "threshold was not measured" in capsys.readouterr().err
    capsys.readouterr()
    assert identify(people, model, a) == 0  # the same weights, measured since
    assert "threshold 0.9000" in capsys.readouterr().err
    content = torch.load(model, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] += 1
    torch.save(content, model)
    with pytest.raises(SystemExit) as ended:
        enroll("Ada", people, model, a)
    assert ended.value.code == 2
    assert "enroll the people again" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.usefixtures("public_retinaface")
def test_enroll__images_without_one_clear_face(
    model: Path, people: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    crowd = real_data / "coco" / "val2017" / "000000005001.jpg"
    one = sorted((real_data / "celeba" / "img_align_celeba").glob("*.jpg"))[0]
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    words = ("enroll", "Ada", crowd, one, tmp_path / "black.png", "--gallery", people,
             "--model", model, "--device", "cpu")  # fmt: skip
    assert gallery(*words) == 1
    said = capsys.readouterr().out
    assert re.search(rf"{crowd}: \d+ faces; cut one out, or use --faces largest or center", said)
    assert "black.png: no face found" in said
    assert Gallery(people).people() == {"Ada": 1}
    assert gallery(*words, "--faces", "largest") == 1
    assert Gallery(people).people() == {"Ada": 2}, "the first image was enrolled before"
    capsys.readouterr()
    assert gallery("identify", one, tmp_path / "black.png", "--gallery", people, "--model", model,
                   "--device", "cpu") == 0  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{one} at ")
    assert lines[0].endswith("Ada 1.000")
    assert lines[1] == f"{tmp_path / 'black.png'}: no face"
