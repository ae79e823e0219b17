"""The measures of verification, by hand and against scikit-learn."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.pairs import Pairs
from mobilevision.heads.face_embedding.far_frr import (
    all_against_all,
    area_under,
    equal_error_rate,
    roc_curve,
    threshold_at_far,
)
from mobilevision.heads.face_embedding.verification import (
    format_table,
    measure_scores,
    verify_pairs,
)


def random_scores(seed: int, pairs: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    scores = np.clip(np.round(rng.normal(np.where(same, 0.5, 0.1), 0.2), 2), -1, 1)  # many ties
    return scores, same, rng.permutation(np.arange(pairs) % 10)


def test_roc__by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.4, 0.3])
    same = np.array([True, True, False, True, False])
    roc = roc_curve(scores, same)
    assert roc.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.4, 0.3]
    assert roc.far.tolist() == [0, 0, 0.5, 0.5, 1]
    np.testing.assert_allclose(roc.tar, [0, 1 / 3, 2 / 3, 1, 1])
    # Of six (same, different) comparisons 4 are right and 1 is a tie.
    assert area_under(roc) == pytest.approx(4.5 / 6)
    # Between (0, 1/3) and (1/2, 2/3): far = 1 - tar at 0.4.
    assert equal_error_rate(roc) == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(4))
def test_roc__agrees_with_scikit_learn(seed: int) -> None:
    scores, same, _ = random_scores(seed)
    far, tar, thresholds = sklearn_roc_curve(same, scores, drop_intermediate=False)
    roc = roc_curve(scores, same)
    np.testing.assert_allclose(roc.far, far)
    np.testing.assert_allclose(roc.tar, tar)
    np.testing.assert_allclose(roc.thresholds, thresholds)
    assert area_under(roc) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


def test_equal_error_rate__of_perfect_and_of_reversed_scores() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(roc_curve(np.array([0.9, 0.8, 0.2, 0.1]), same)) == 0
    assert equal_error_rate(roc_curve(np.array([0.1, 0.2, 0.8, 0.9]), same)) == 1


def test_protocol__threshold_of_a_fold_comes_from_the_others() -> None:
    # Fold 0 is best cut in (0.4, 0.6], fold 1 in (0.1, 0.3]: each is judged by the other's cut.
    scores = np.array([0.6, 0.7, 0.4, 0.3, 0.3, 0.4, 0.1, 0.0])
    same = np.array([True, True, False, False] * 2)
    folds = np.repeat([0, 1], 4)
    result = measure_scores(scores, same, folds)
    # At 0.101 fold 0 accepts all, at 0.401 fold 1 refuses all: half of the answers are right.
    assert result.accuracy == 0.5
    assert result.std == 0
    assert result.pairs == 8
    assert result.impostor_pairs == 4
    # Of all pairs 6 are right wherever the cut is in (0.1, 0.6]; the middle is taken.
    assert result.threshold == pytest.approx(0.35)
    assert result.far == 0.25
    assert result.val is None, "four impostor pairs cannot show a rate of 1e-3"


def test_protocol__standard_deviation_is_that_of_the_folds() -> None:
    scores = np.array([0.9, 0.1] * 3 + [0.1, 0.9])  # the last fold is all wrong
    same = np.array([True, False] * 4)
    result = measure_scores(scores, same, np.repeat(np.arange(4), 2))
    assert result.accuracy == 0.75
    assert result.std == pytest.approx(np.std([1, 1, 1, 0]))


def slow_protocol(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> list[float]:
    steps = np.round(np.arange(-1000, 1001) / 1000, 3)
    accuracies = []
    for fold in np.unique(folds):
        right = [((scores[folds != fold] >= t) == same[folds != fold]).sum() for t in steps]
        own = folds == fold
        chosen = steps[right.index(max(right))]
        accuracies.append(((scores[own] >= chosen) == same[own]).mean())
    return accuracies


def test_protocol__agrees_with_a_loop() -> None:
    scores, same, folds = random_scores(7, 300)
    expected = slow_protocol(scores, same, folds)
    result = measure_scores(scores, same, folds)
    assert result.accuracy == pytest.approx(np.mean(expected))
    assert result.std == pytest.approx(np.std(expected))


def test_val__threshold_accepts_at_most_the_allowed_impostors() -> None:
    impostors = np.linspace(0, 0.999, 1000)
    for far, accepted in ((1e-3, 1), (1e-2, 10)):
        limit = threshold_at_far(impostors, 1000, far)
        assert limit is not None
        assert (impostors >= limit).sum() == accepted
        assert (impostors >= limit - 1e-12).sum() == accepted + 1, "the lowest that does"
    assert threshold_at_far(impostors, 1000, 5e-4) is None
    tied = np.repeat([0.1, 0.5], [990, 10])
    limit = threshold_at_far(tied, 1000, 5e-3)
    assert limit is not None
    assert (tied >= limit).sum() == 0, "ten are tied, five are allowed"
    assert threshold_at_far(np.array([0.3, 0.2]), 2, 1.0) == 0.2


def test_val__mean_over_folds() -> None:
    rng = np.random.default_rng(0)
    impostors = rng.permutation(np.linspace(-0.5, 0.4995, 4000))
    scores = np.concatenate([impostors, np.repeat([0.9, 0.0], 500)])
    same = np.arange(5000) >= 4000
    result = measure_scores(scores, same, np.arange(5000) % 2)
    assert result.val == 0.5
    assert result.val_far is not None
    assert result.val_far <= 2e-3


def test_val__means_and_deviation_over_folds_with_the_thresholds_of_the_others() -> None:
    rng = np.random.default_rng(4)
    same, folds = np.arange(9000) % 3 == 0, rng.permutation(np.arange(9000) % 3)
    scores = rng.normal(np.where(same, 0.5, 0.0), 0.15).clip(-1, 1)
    accepted, wrongly = [], []
    for fold in range(3):
        others = scores[(folds != fold) & ~same]
        limit = threshold_at_far(others, len(others), 1e-3)
        own = folds == fold
        accepted.append((scores[own & same] >= limit).mean())
        wrongly.append((scores[own & ~same] >= limit).mean())
    result = measure_scores(scores, same, folds)
    assert result.val == pytest.approx(np.mean(accepted))
    assert result.val_std == pytest.approx(np.std(accepted))
    assert result.val_far == pytest.approx(np.mean(wrongly))
    assert len(set(accepted)) == len(set(wrongly)) == 3


def slow_all(embeddings: np.ndarray, identities: np.ndarray, far: float) -> tuple[float, int, int]:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = [(a, b) for a, b in itertools.combinations(range(len(unit)), 2)
             if min(identities[a], identities[b]) >= 0]  # fmt: skip
    cosines = np.array([unit[a] @ unit[b] for a, b in pairs])
    same = np.array([identities[a] == identities[b] for a, b in pairs])
    rates = [(cosines[~same] >= t).mean() for t in cosines]
    allowed = [t for t, rate in zip(cosines, rates, strict=True) if rate <= far]
    return (cosines[same] >= min(allowed)).mean(), int(same.sum()), int((~same).sum())


def test_all_against_all__agrees_with_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilevision.heads.face_embedding.far_frr._BLOCK", 7)
    rng = np.random.default_rng(2)
    identities = rng.integers(-1, 12, 90)
    centers = rng.normal(size=(13, 8))
    embeddings = (centers[identities] + rng.normal(size=(90, 8))).astype(np.float32) * 3
    result = all_against_all(embeddings, identities, (0.1, 0.01, 1e-5))
    assert result is not None
    for row in result.at[:2]:
        tar, same, different = slow_all(embeddings, identities, row.far)
        assert row.tar == pytest.approx(tar)
        assert (result.same_pairs, result.impostor_pairs) == (same, different)
    assert result.at[2].tar is None, "too few impostor pairs for 1e-5"
    assert result.images == (identities >= 0).sum()


def test_all_against_all__needs_both_kinds() -> None:
    assert all_against_all(np.eye(3), np.array([0, 0, 0])) is None
    assert all_against_all(np.eye(3), np.array([0, 1, -1])) is None


def test_verify_pairs__length_of_embeddings_does_not_matter() -> None:
    embeddings = np.array([[2.0, 0], [5, 0], [0, 1], [0, 30]])
    pairs = Pairs(np.array([0, 0, 2, 1]), np.array([1, 2, 3, 3]),
                  np.array([True, False] * 2), np.array([0, 0, 1, 1]))  # fmt: skip
    result = verify_pairs(embeddings, pairs, "four", np.array([0, 0, 1, 1]))
    assert (result.accuracy, result.auc, result.eer) == (1, 1, 0)
    content = json.loads(result.to_json())
    keys = ("accuracy", "std", "threshold", "far", "val_at_far_1e-3", "auc", "eer", "pairs")
    assert set(keys) <= set(content)
    assert content["all"]["impostor_pairs"] == 4
    assert content["all"]["tar_at_far_1e-4"] is None
    assert "4 impostor pairs" in format_table(result)
    assert "too few pairs" in format_table(result)


@pytest.mark.parametrize(
    ("folds", "same"), [([0, 0, 0, 0], [1, 0, 1, 0]), ([0, 0, 1, 1], [1, 1, 1, 0])]
)
def test_verify_pairs__folds_that_cannot_be_measured(folds: list[int], same: list[int]) -> None:
    with pytest.raises(DataError, match="at least two are needed"):
        measure_scores(np.ones(4), np.array(same, bool), np.array(folds))


def test_verify_pairs__embedding_with_nan() -> None:
    one = np.array([0])
    pairs = Pairs(one, one, np.array([True]), one)
    with pytest.raises(DataError, match="embedding 1 has NaN"):
        verify_pairs(np.array([[1.0, 0], [np.nan, 1], [np.inf, 0]]), pairs, "x")


def test_verification__needs_no_torch() -> None:
    module = "mobilevision.heads.face_embedding.verification"
    code = f"import sys, {module} as v; print(v.THRESHOLDS[0], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-1.0", "False"]
