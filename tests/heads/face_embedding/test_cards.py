"""Cards of networks of other projects: what is read, what is refused, what is built in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevision.backbone.weights.hub import PUBLIC_WEIGHTS
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.sources import LfwFaces
from mobilevision.heads.face_embedding.cards import (
    FACENET,
    KNOWN_CARDS,
    Card,
    card_path,
    known_card,
)
from mobilevision.heads.face_embedding.far_frr import compare_all
from mobilevision.heads.face_embedding.teachers import read_view_table
from mobilevision.heads.face_embedding.threshold import Threshold


def written(folder: Path, content: Any) -> Path:
    path = card_path(folder / "net.onnx")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_read__what_is_left_out__is_as_arcface_has_it(tmp_path: Path) -> None:
    assert written(tmp_path, {}).name == "net.onnx.json"
    assert Card.read(written(tmp_path, {})) == Card() == Card(None, 127.5, 127.5, "rgb", "arcface")
    content = {
        "size": 160, "pixel_mean": 0, "pixel_std": 255, "order": "bgr", "crop": "box",
        "margin_px": 14, "license": "MIT", "source": "mine",
        "verification": {"threshold": 0.4, "far": 0.001, "pairs": 6000},
    }  # fmt: skip
    assert Card.read(written(tmp_path, content)) == Card(**content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ([1], "a card is a JSON object, not a list"),
        ({"mean": 0, "std": 1}, "has the unknown key mean, std. A card has some of size"),
        ({"size": 8}, "size is 8, but it must be 16 to 1024 px"),
        ({"size": 112.0}, "size is 112.0"),
        ({"size": True}, "size is True"),
        ({"pixel_mean": 300}, "pixel_mean is 300, but it must be a number from 0 to 255"),
        ({"pixel_mean": "127.5"}, "pixel_mean is '127.5'"),
        ({"pixel_std": 0}, "pixel_std is 0, but it must be a number above 0"),
        ('{"pixel_std": NaN}', "pixel_std is nan"),
        ({"order": "RGB"}, "order is 'RGB', but it must be rgb or bgr"),
        ({"crop": "loose"}, "crop is 'loose'"),
        ({"margin_px": 40}, "margin_px is 40"),
        ({"license": None}, "license is None"),
        ({"verification": {"threshold": 1.4, "far": 0.1}}, "threshold .* is 1.4, not a number"),
        ({"verification": 1}, "verification is 1"),
    ],
)
def test_read__wrong__says_which_key_and_what_it_must_be(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        Card.read(path)
    assert str(path) in str(caught.value)


def test_known_cards__public_names__have_one_each() -> None:
    for weights in PUBLIC_WEIGHTS.values():
        if weights.network:
            sums = tuple(filter(None, [weights.sha256, weights.bin_sha256]))
            assert KNOWN_CARDS[sums].license == weights.license
            assert (KNOWN_CARDS[sums].crop == "box") == (weights.network == "facenet")
    for card in KNOWN_CARDS.values():
        Threshold.from_metadata(card.verification)  # else a ValueError
    assert all(sum(map(len, sums)) % 64 == 0 for sums in KNOWN_CARDS)
    assert (FACENET.size, FACENET.pixel_mean, FACENET.pixel_std) == (160, 127.5, 128)


def test_known_card__by_content_and_not_by_name(tmp_path: Path) -> None:
    for name in ("w600k_mbf.onnx", "face_recognition_sface_2021dec.onnx"):
        (tmp_path / name).write_bytes(b"another network")
        assert known_card([tmp_path / name]) is None


@pytest.mark.real_data
def test_known_card__mobilefacenet__both_files_count(real_data: Path, tmp_path: Path) -> None:
    files = [real_data / "teacher" / f"mobilenet_ncnn{suffix}" for suffix in (".param", ".bin")]
    card = known_card(files)
    assert card is not None
    assert (card.pixel_mean, card.pixel_std, card.order) == (0, 1, "rgb")
    (tmp_path / "a.bin").write_bytes(files[1].read_bytes() + b"0")
    assert known_card([files[0], tmp_path / "a.bin"]) is None


@pytest.mark.real_data
def test_known_card__mobilefacenet__its_false_accept_rate_is_that_on_lfw(real_data: Path) -> None:
    pytest.importorskip("pyarrow")
    measured = KNOWN_CARDS[
        PUBLIC_WEIGHTS["mobilefacenet"].sha256, PUBLIC_WEIGHTS["mobilefacenet"].bin_sha256
    ].verification
    faces = LfwFaces(real_data / "lfw").read()
    table = read_view_table(real_data / "teacher" / "lfw.parquet")
    order = {file: row for row, file in enumerate(table.files.tolist())}
    rows = table.embeddings[[order[file] for file in faces.files]]
    counts = np.zeros(4)
    for pairs in compare_all(rows, faces.identities):
        for place, scores in ((0, pairs.impostors), (2, pairs.genuine)):
            counts[place : place + 2] += (scores >= measured["threshold"]).sum(), len(scores)
    assert counts[1] == measured["impostor_pairs"]
    assert counts[0] / counts[1] == pytest.approx(measured["far"], abs=1e-6)
    assert counts[2] / counts[3] == pytest.approx(0.9904, abs=1e-4)
