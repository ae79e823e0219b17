import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from mobilevision.datasets.errors import DataError
from mobilevision.heads.face_attributes.metrics import (
    AttributeEvaluator,
    AttributePredictions,
    by_difficulty,
    format_table,
    measure,
)


def predictions(labels: list[list[int]], probabilities: list[list[float]]) -> AttributePredictions:
    count = len(labels)
    return AttributePredictions(
        np.arange(count),
        np.array(labels, dtype=np.int8),
        np.array(probabilities, dtype=np.float32),
        np.full(count, np.nan, dtype=np.float32),
    )


def test_measure__hand_calculated() -> None:
    given = predictions(
        [[1, 0], [0, 0], [1, -1], [0, 0]],
        [[0.9, 0.2], [0.6, 0.7], [0.4, 0.9], [0.1, 0.3]],
    )
    result = measure(given, ["a", "b"], "toy", {"a": 0.35})
    a, b = result.per_attribute["a"], result.per_attribute["b"]
    assert (a.positives, a.negatives, b.positives, b.negatives) == (2, 2, 0, 3)
    assert a.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert a.accuracy == 0.5
    assert a.balanced_accuracy == 0.5
    assert (a.threshold, b.threshold) == (0.35, 0.5)
    assert a.accuracy_at_threshold == 0.75
    assert a.precision_at_threshold == pytest.approx(2 / 3)
    assert a.recall_at_threshold == 1.0
    assert b.average_precision is None
    assert b.accuracy == pytest.approx(2 / 3)
    assert b.balanced_accuracy is None
    assert b.majority_accuracy == 1.0
    assert result.without_ap == ["b"]
    assert result.means.mean_ap == a.average_precision
    assert result.means.mean_accuracy == pytest.approx((0.5 + 2 / 3) / 2)
    assert result.means.mean_balanced_accuracy == 0.5
    assert result.means.majority_mean_accuracy == pytest.approx(0.75)
    assert result.means.majority_mean_ap == 0.5


def test_measure__as_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((300, 4)) < [0.5, 0.1, 0.8, 0.3]).astype(np.int8)
    scores = (labels * 0.3 + rng.random((300, 4)) * 0.7).round(2).astype(np.float32)
    result = measure(predictions(labels.tolist(), scores.tolist()), list("abcd"), "toy")
    for column, row in enumerate(result.per_attribute.values()):
        true, said = labels[:, column], scores[:, column] >= 0.5
        expected = sklearn_metrics.average_precision_score(true, scores[:, column])
        assert row.average_precision == pytest.approx(expected)
        assert row.accuracy == pytest.approx(sklearn_metrics.accuracy_score(true, said))
        expected = sklearn_metrics.balanced_accuracy_score(true, said)
        assert row.balanced_accuracy == pytest.approx(expected)
    expected = sklearn_metrics.average_precision_score(labels, scores, average="macro")
    assert result.means.mean_ap == pytest.approx(expected)


def test_measure__majority_of_training__not_of_the_measured() -> None:
    given = predictions([[1], [1], [0]], [[0.9], [0.9], [0.1]])
    counts = np.array([[100, 1]])
    assert measure(given, ["a"], "toy").per_attribute["a"].majority_accuracy == 2 / 3
    trained = measure(given, ["a"], "toy", training_counts=counts)
    assert trained.per_attribute["a"].majority_accuracy == 1 / 3


def test_measure__groups__other_attributes_on_their_images() -> None:
    labels = [[1, 1], [1, 0], [0, 1], [0, 0], [-1, 1]]
    given = predictions(labels, [[0.9, 0.9], [0.9, 0.1], [0.1, 0.2], [0.1, 0.8], [0.5, 0.1]])
    result = measure(given, ["Male", "b"], "toy", groups=("Male", "Absent"))
    assert list(result.groups) == ["Male"]
    yes, no = result.groups["Male"]["yes"], result.groups["Male"]["no"]
    assert (yes.images, yes.mean_accuracy, yes.mean_ap) == (2, 1.0, 1.0)
    assert (no.images, no.mean_accuracy, no.mean_ap) == (2, 0.0, 0.5)


def test_measure__no_known_label__named() -> None:
    with pytest.raises(DataError, match="no label is known"):
        measure(predictions([[-1]], [[0.5]]), ["a"], "toy")


def test_measure__an_attribute_nobody_knows__counted_with_nothing() -> None:
    result = measure(predictions([[1, -1], [0, -1]], [[0.9, 0.5], [0.1, 0.5]]), ["a", "b"], "toy")
    row = result.per_attribute["b"]
    assert (row.positives, row.negatives, row.accuracy) == (0, 0, None)
    assert result.means.mean_accuracy == 1.0
    assert "without positives, so left out of the mean AP (1): b" in format_table(result)


def test_evaluator__duplicates_of_distributed_padding__dropped() -> None:
    evaluator = AttributeEvaluator(["a"], "toy")
    first = torch.tensor([[2.0], [-2.0]])
    evaluator.update(torch.tensor([1, 0]), torch.tensor([[1], [0]]), first, ["one.jpg", "zero.jpg"])
    evaluator.update(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[9.0]]), ["zero.jpg"])
    gathered = evaluator.gather()
    assert gathered.ids.tolist() == [0, 1]
    assert gathered.probabilities[:, 0] == pytest.approx([1 / (1 + np.e**2), 1 / (1 + np.e**-2)])
    rows = list(csv.reader(evaluator.to_csv().splitlines()))
    assert rows == [["file", "a"], ["zero.jpg", "0.119203"], ["one.jpg", "0.880797"]]


def test_evaluator__wrong_width_or_nan__named() -> None:
    evaluator = AttributeEvaluator(["a", "b"], "toy")
    with pytest.raises(DataError, match="3 attributes, the data 2 and names for 2"):
        evaluator.update(torch.tensor([0]), torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="not finite"):
        evaluator.update(torch.tensor([0]), torch.zeros(1, 2), torch.full((1, 2), torch.nan))
    with pytest.raises(DataError, match="no images were evaluated"):
        evaluator.gather()


def test_format_table__hardest_first_and_json_readable() -> None:
    given = predictions(
        [[1, 1, 0], [0, 0, 0], [1, 0, 0]],
        [[0.9, 0.1, 0.1], [0.1, 0.5, 0.1], [0.8, 0.6, 0.1]],
    )
    result = measure(given, ["easy", "hard", "never"], "toy", groups=("easy",))
    assert [name for name, _ in by_difficulty(result)] == ["hard", "easy", "never"]
    text = format_table(result)
    assert text.index(" hard ") < text.index(" easy ") < text.index(" never ")
    assert "easy yes" in text
    content = json.loads(result.to_json())
    assert content["mean_ap"] == result.means.mean_ap
    assert content["per_attribute"]["never"]["average_precision"] is None
    assert content["groups"]["easy"]["no"]["images"] == 1
    assert content["without_ap"] == ["never"]


def test_metrics__imported_alone__no_torch() -> None:
    code = (
        "import sys, mobilevision.heads.face_attributes.metrics, "
        "mobilevision.heads.face_attributes.metrics; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"
