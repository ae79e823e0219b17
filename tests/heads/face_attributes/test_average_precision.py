import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from mobilevision.heads.face_attributes.average_precision import (
    FEWEST,
    average_precision,
    choose_threshold,
    curve,
    decide,
)


def test_curve__hand_counted_with_a_tie() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.3])
    positive = np.array([True, False, True, False])
    points = curve(scores, positive)
    assert points.thresholds.tolist() == [0.9, 0.8, 0.3]
    assert points.true_positives.tolist() == [1, 2, 2]
    assert points.false_positives.tolist() == [0, 1, 2]
    assert points.precision.tolist() == [1.0, 2 / 3, 0.5]
    assert points.recall.tolist() == [0.5, 1.0, 1.0]
    assert average_precision(points) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_average_precision__as_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 8 for score, _ in rows])
    positive = np.array([answer for _, answer in rows])
    ours = average_precision(curve(scores, positive))
    if not positive.any():
        assert ours is None
    else:
        assert ours == pytest.approx(sklearn_metrics.average_precision_score(positive, scores))


def test_average_precision__torchmetrics_says_the_same() -> None:
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    rng = np.random.default_rng(0)
    scores, positive = rng.random(200).astype(np.float32), rng.random(200) < 0.2
    expected = binary_average_precision(torch.tensor(scores), torch.tensor(positive).long())
    assert average_precision(curve(scores, positive)) == pytest.approx(expected.item(), rel=1e-5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 9),
)
def test_decide__as_scikit_learn(rows: list[tuple[int, bool]], step: int) -> None:
    scores = np.array([score / 8 for score, _ in rows])
    positive = np.array([answer for _, answer in rows])
    ours, said = decide(scores, positive, step / 8), scores >= step / 8
    assert ours.accuracy == pytest.approx(sklearn_metrics.accuracy_score(positive, said))
    if positive.any() and not positive.all():
        expected = sklearn_metrics.balanced_accuracy_score(positive, said)
        assert ours.balanced_accuracy == pytest.approx(expected)
    else:
        assert ours.balanced_accuracy is None
    if said.any():
        expected = sklearn_metrics.precision_score(positive, said)
        assert ours.precision == pytest.approx(expected)
    else:
        assert ours.precision is None


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 20), min_size=FEWEST, max_size=30),
    st.lists(st.integers(0, 20), min_size=FEWEST, max_size=30),
    st.sampled_from(["accuracy", "balanced_accuracy", "f1"]),
)
def test_choose_threshold__no_other_is_better(yes: list[int], no: list[int], name: str) -> None:
    scores = np.array([*yes, *no]) / 20
    positive = np.arange(len(scores)) < len(yes)
    chosen = choose_threshold(curve(scores, positive), name)  # type: ignore[arg-type]
    assert chosen is not None
    assert 0 <= chosen <= 1 or chosen == 1.5
    scorer = {
        "accuracy": sklearn_metrics.accuracy_score,
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
        "f1": lambda true, said: sklearn_metrics.f1_score(true, said, zero_division=0.0),
    }[name]
    best = max(scorer(positive, scores >= value) for value in np.arange(-0.5, 22.5) / 20)
    assert scorer(positive, scores >= chosen) == pytest.approx(best)


def test_choose_threshold__clear_gap__middle_of_it() -> None:
    scores = np.array([0.1] * 10 + [0.7] * 10)
    positive = np.arange(20) >= 10
    for name in ("accuracy", "balanced_accuracy", "f1"):
        assert choose_threshold(curve(scores, positive), name) == pytest.approx(0.4)


def test_choose_threshold__best_never_to_say_yes__above_every_score() -> None:
    scores = np.array([0.0] * 29 + [1.0])  # the only high score is of an image that lacks it
    chosen = choose_threshold(curve(scores, np.arange(30) < 10), "accuracy")
    assert chosen == 1.5


def test_choose_threshold__few_images__none() -> None:
    positive = np.arange(100) < FEWEST - 1
    assert choose_threshold(curve(np.linspace(1, 0, 100), positive)) is None
    assert choose_threshold(curve(np.linspace(1, 0, 100), ~positive)) is None


def test_choose_threshold__unknown_criterion__refused() -> None:
    with pytest.raises(ValueError, match="criterion"):
        choose_threshold(curve(np.zeros(1), np.ones(1, bool)), "luck")  # type: ignore[arg-type]
