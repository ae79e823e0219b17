"""A threshold with its measured errors: plain data of anybody, chances, words."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mobilevision.heads.face_embedding.fairness import GroupRates, measure_groups
from mobilevision.heads.face_embedding.threshold import NOT_BY_GROUP, Threshold
from mobilevision.heads.face_embedding.verification import measure_scores, threshold_metadata

RATES = {"faces": 9, "people": 4, "genuine": 120, "impostors": 200, "far": 0.02, "frr": None}
CONTENT = {"threshold": 0.4, "far": 0.01, "dataset": "faces", "impostor_pairs": 300,
           "groups": {"Hat: yes": RATES}}  # fmt: skip


def test_metadata__there_and_back_through_json() -> None:
    threshold = Threshold.from_metadata(CONTENT)
    rates = GroupRates(9, 4, 120, 200, 0.02, None)
    assert threshold == Threshold(0.4, 0.01, "faces", 300, {"Hat: yes": rates})
    assert Threshold.from_metadata(json.loads(json.dumps(threshold.to_metadata()))) == threshold
    alone = Threshold(0.4, 0.01)
    assert alone.to_metadata() == {"threshold": 0.4, "far": 0.01}
    assert Threshold.from_metadata({**alone.to_metadata(), "accuracy": "?", "all": 3}) == alone


@pytest.mark.parametrize("content", [None, {}, {"far": 0.1}, {"threshold": 0.4, "far": None}])
def test_from_metadata__nothing_measured(content: Any) -> None:
    assert Threshold.from_metadata(content) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"threshold": "0.4"},
            "threshold of the measured threshold is '0.4', not a number from -1",
        ),
        ({"threshold": True}, "is True, not a number"),
        ({"threshold": 1.5}, "is 1.5"),
        ({"far": float("nan")}, "far .* is nan, not a number from 0 to 1"),
        ({"far": 10**5000}, "far .* is a huge number"),
        ({"dataset": ["x"]}, "dataset .* is .*, not text"),
        ({"impostor_pairs": -1}, "impostor_pairs .* is -1"),
        ({"impostor_pairs": 3.0}, "impostor_pairs .* is 3.0"),
        ({"groups": [1]}, "groups .* an object"),
        ({"groups": {1: RATES}}, "groups .* is 1, not text"),
        ({"groups": {"Hat: yes": None}}, "groups, Hat: yes .* None, not an object"),
        ({"groups": {"Hat: yes": {**RATES, "faces": None}}}, "Hat: yes: faces .* is None"),
        ({"groups": {"Hat: yes": {**RATES, "far": 2}}}, "Hat: yes: far .* is 2"),
    ],
)
def test_from_metadata__of_another_form(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Threshold.from_metadata({**CONTENT, **wrong})
    for content in (3, "text", [0.4, 0.1]):
        with pytest.raises(ValueError, match="not an object"):
            Threshold.from_metadata(content)


def test_from_metadata__text_that_would_command_a_terminal() -> None:
    hostile = {**CONTENT, "dataset": "a\x1b[2Jb\n" + "c" * 1000, "groups": {"\x07x": RATES}}
    threshold = Threshold.from_metadata(hostile)
    assert threshold is not None
    assert threshold.groups is not None
    assert threshold.dataset is not None
    assert threshold.dataset.startswith("a?[2Jb?ccc")
    assert len(threshold.dataset) == 200
    assert list(threshold.groups) == ["?x"]


def test_threshold_metadata__groups_at_the_same_threshold_alone() -> None:
    rng = np.random.default_rng(0)
    faces, owners = rng.normal(size=(60, 4)), np.arange(60) // 3
    same = np.arange(40) % 2 == 0
    result = measure_scores(np.where(same, 0.8, 0.1), same, np.arange(40) // 20, "drawn")
    labels = {"Hat": np.arange(60) % 2}
    for at, kept in ((result.threshold, True), (result.threshold + 0.1, False)):
        groups = measure_groups(faces, owners, labels, at, "given")
        object.__setattr__(result, "groups", groups)
        content = threshold_metadata(result)
        read = Threshold.from_metadata(json.loads(json.dumps(content)))
        expected = groups.named if kept else None
        assert read == Threshold(result.threshold, 0.0, "drawn", 20, expected)
        assert (content["accuracy"], content["pairs"]) == (1, 40)


def test_chance_of_match__by_hand() -> None:
    groups = {
        "all": GroupRates(9, 4, 120, 200, 0.9, 0.9),
        "A: yes": GroupRates(9, 4, 120, 200, 0.1, 0.2),
        "A: no": GroupRates(9, 4, 120, 200, 0.0, 0.3),
        "B: yes": GroupRates(2, 1, 1, 0, None, None),
    }
    threshold = Threshold(0.4, 0.01, "faces", 300, groups)
    assert threshold.chance_of_match(1) == pytest.approx(0.01)
    assert threshold.chance_of_match(100) == pytest.approx(1 - 0.99**100)
    assert threshold.chance_of_match(3, "A: yes") == pytest.approx(1 - 0.9**3)
    # None of 200 pairs: up to 3 in 200.
    assert threshold.chance_of_match(2, "A: no") == pytest.approx(1 - 0.985**2)
    assert Threshold(0.4, 0.0, "faces", 300).chance_of_match(2) == pytest.approx(1 - 0.99**2)
    assert Threshold(0.4, 0.0, "faces", 2).chance_of_match(9) == 1
    assert (threshold.worst("far"), threshold.worst("frr")) == ("A: yes", "A: no")
    assert Threshold(0.4, 0.01).worst("far") is None


def test_explain__one_pair_and_a_search() -> None:
    assert Threshold(0.4, 0.0, None, 3000).explain() == [
        "threshold 0.4000: 0% of 3,000 pairs of different people reached it", NOT_BY_GROUP
    ]  # fmt: skip
    lines = Threshold(0.4, 0.0, None, 3000).explain(1000)
    assert "taken for one of 1,000 people with a chance of up to 63.2%" in lines[1]


def test_threshold__needs_no_torch() -> None:
    program = (
        "import sys, mobilevision.heads.face_embedding.threshold; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
