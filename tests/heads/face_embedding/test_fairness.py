"""Rates within groups of faces, by hand and against a loop."""

import itertools

import numpy as np
import pytest

from mobilevision.heads.face_embedding.fairness import GroupRates, format_groups, measure_groups
from mobilevision.heads.face_embedding.far_frr import equal_error_rate, roc_curve


def at_angles(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_measure_groups__by_hand() -> None:
    # Faces that have it: person 0 at 0 and 20 degrees, person 1 at 30 and 100; that lack it:
    # person 2 at 180 and 190, person 3 at 270 and 275. A cosine of 0.5 is an angle of 60.
    faces = at_angles(0, 20, 30, 100, 180, 190, 270, 275) * 3
    owners = np.repeat(np.arange(4), 2)
    labels = {"Hat": np.repeat([1, 0], 4), "Known": np.array([1, 1, -1, -1, 0, 0, 0, 0])}
    result = measure_groups(faces, owners, labels, 0.5, "given", least_pairs=1)
    hat = result.by_attribute["Hat"]
    # Genuine: 20 (right), 70 (refused). Impostors: 30 and 10 accepted, 100 and 80 not.
    assert hat["yes"] == (4, 2, 2, 4, 0.5, 0.5, 0.5, 0.5)
    # Genuine: 10 and 5. Impostors: 80 to 95.
    assert hat["no"] == (4, 2, 2, 4, 0.0, 0.0, 1.0, 0.0)
    assert result.by_attribute["Known"]["yes"] == (2, 1, 1, 0, None, 0.0, None, None)
    # Of all 24 impostor pairs 0-30, 20-30 are accepted, and none across the groups (80 at least).
    assert result.everyone.impostors == 24
    assert result.everyone.far == pytest.approx(2 / 24)
    assert result.everyone.frr == pytest.approx(1 / 4)
    assert result.everyone.accuracy == pytest.approx(1 - (2 / 24 + 1 / 4) / 2)
    content = result.to_dict()
    assert content["by_attribute"]["Hat"]["yes"]["impostors"] == 4
    assert (content["threshold"], content["threshold_origin"]) == (0.5, "given")


def test_measure_groups__score_at_the_threshold_is_accepted() -> None:
    faces = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]], np.float32)
    everyone = measure_groups(faces, np.array([0, 0]), {}, 0.5, "given", least_pairs=1).everyone
    assert everyone.frr == 0


def slow_rates(faces: np.ndarray, owners: np.ndarray, threshold: float) -> GroupRates:
    unit = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(len(unit)), 2))
    cosines = np.array([unit[a] @ unit[b] for a, b in pairs])
    same = np.array([owners[a] == owners[b] for a, b in pairs])
    far, frr = (cosines[~same] >= threshold).mean(), (cosines[same] < threshold).mean()
    eer = equal_error_rate(roc_curve(cosines, same))
    people = len(set(owners.tolist()))
    return GroupRates(len(faces), people, int(same.sum()), int((~same).sum()), float(far),
                      float(frr), float(1 - (far + frr) / 2), eer)  # fmt: skip


def test_measure_groups__agrees_with_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilevision.heads.face_embedding.far_frr._BLOCK", 7)
    rng = np.random.default_rng(3)
    owners = rng.integers(-1, 12, 150)
    centers = rng.normal(size=(13, 8))
    faces = (centers[owners] + rng.normal(size=(150, 8))) * rng.uniform(1, 9, (150, 1))
    column = rng.integers(-1, 2, 150)
    result = measure_groups(faces, owners, {"Hat": column}, 0.3123, "given", least_pairs=1)
    groups = [result.everyone, *result.by_attribute["Hat"].values()]
    for rates, chosen in zip(groups, (column > -2, column == 1, column == 0), strict=True):
        kept = chosen & (owners >= 0)
        expected = slow_rates(faces[kept], owners[kept], 0.3123)
        assert rates[:4] == expected[:4]
        assert rates[4:7] == pytest.approx(expected[4:7])
        assert rates.eer == pytest.approx(expected.eer, abs=3e-3)  # thresholds in steps


def test_measure_groups__too_few_pairs_have_counts_alone() -> None:
    # 20 people, two faces each: 20 genuine pairs and 760 impostor pairs.
    faces = np.random.default_rng(0).normal(size=(40, 4))
    owners = np.arange(40) // 2
    labels = {"Hat": np.zeros(40, int)}
    result = measure_groups(faces, owners, labels, 0.4, "given")
    parts = result.by_attribute["Hat"]
    assert parts["no"] == result.everyone
    assert parts["no"][:4] == (40, 20, 20, 760)
    assert parts["no"].far is not None
    assert (parts["no"].frr, parts["no"].accuracy, parts["no"].eer) == (None, None, None)
    assert parts["yes"] == (0, 0, 0, 0, None, None, None, None)
    lines = format_groups(result)
    assert "at the threshold 0.400 (given)" in lines[0]
    (row,) = [line for line in lines if line.startswith(" Hat: no")]
    assert row.split() == ["Hat:", "no", "40", "20", "20", "760", f"{parts['no'].far:.4f}",
                           "-", "-", "-"]  # fmt: skip
