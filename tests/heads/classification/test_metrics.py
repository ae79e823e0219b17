import csv
import io
import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from mobilevision.datasets.errors import DataError
from mobilevision.heads.classification.metrics import (
    ClassificationEvaluator,
    format_table,
)

NAMES = ["a", "b", "c"]


def logits_of(said: list[int], classes: int = 3) -> torch.Tensor:
    """Logits whose best class is as said, and whose second best is the next one."""
    logits = torch.zeros(len(said), classes)
    for row, each in enumerate(said):
        logits[row, each] = 2.0
        logits[row, (each + 1) % classes] = 1.0
    return logits


def test_compute__hand_calculated() -> None:
    evaluator = ClassificationEvaluator(NAMES, "hand")
    labels = torch.tensor([0, 0, 0, 1, 1])  # nothing of class c
    evaluator.update(torch.arange(5), labels, logits_of([0, 0, 1, 1, 2]))
    result = evaluator.compute()
    assert (result.images, result.top1, result.top5) == (5, 3 / 5, 1.0)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    a, b, c = result.per_class.values()
    assert a == (3, 4 / 5, 1.0, 2 / 3, 4 / 5)  # 2 right, 1 missed, none wrongly given, 2 others
    assert b == (2, 3 / 5, 1 / 2, 1 / 2, 1 / 2)
    assert c == (0, 4 / 5, 0.0, None, 0.0)


def test_compute__agrees_with_torchmetrics() -> None:
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 9, generator=rng)
    labels = torch.randint(9, (200,), generator=rng)
    evaluator = ClassificationEvaluator([str(k) for k in range(9)], "random")
    for rows in torch.arange(200).split(32):
        evaluator.update(rows, labels[rows], logits[rows])
    result = evaluator.compute()
    for top, value in ((1, result.top1), (5, result.top5)):
        expected = multiclass_accuracy(logits, labels, 9, average="micro", top_k=top)
        assert value == pytest.approx(expected.item())
    expected_confusion = multiclass_confusion_matrix(logits, labels, 9)
    assert result.confusion.tolist() == expected_confusion.tolist()
    for name, measure in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        ours = [getattr(row, name) for row in result.per_class.values()]
        assert ours == pytest.approx(measure(logits, labels, 9, average=None).tolist())


def test_update__a_image_twice__counts_once() -> None:
    evaluator = ClassificationEvaluator(NAMES, "padded")
    evaluator.update(torch.tensor([2, 0]), torch.tensor([1, 0]), logits_of([1, 0]))
    evaluator.update(torch.tensor([1, 2]), torch.tensor([2, 1]), logits_of([0, 1]))
    result = evaluator.compute()
    assert (result.images, result.top1) == (3, 2 / 3)


def test_top5__with_six_classes_is_missed_by_the_last() -> None:
    evaluator = ClassificationEvaluator(list("abcdef"), "six")
    logits = torch.arange(6.0).flip(0).repeat(2, 1)
    evaluator.update(torch.arange(2), torch.tensor([4, 5]), logits)
    result = evaluator.compute()
    assert (result.top1, result.top5) == (0.0, 0.5)


def test_unlabeled_images__are_predicted_and_not_measured() -> None:
    evaluator = ClassificationEvaluator(NAMES, "partly")
    evaluator.update(torch.arange(2), torch.tensor([-1, 1]), logits_of([2, 1]), ("x.jpg", "y.jpg"))
    result = evaluator.compute()
    assert (result.images, result.top1) == (1, 1.0)
    rows = list(csv.DictReader(io.StringIO(evaluator.to_csv())))
    assert [(row["file"], row["label"], row["predicted"]) for row in rows] == [
        ("x.jpg", "", "c"),
        ("y.jpg", "b", "b"),
    ]
    score = logits_of([2]).softmax(1).max().item()
    assert float(rows[0]["score"]) == pytest.approx(score, abs=1e-6)
    assert rows[0]["top5"].split(" | ") == ["c", "a", "b"]


def test_compute__without_any_label_says_so() -> None:
    evaluator = ClassificationEvaluator(NAMES, "bare")
    evaluator.update(torch.arange(2), torch.tensor([-1, -1]), logits_of([2, 1]))
    with pytest.raises(DataError, match="no image has a known class"):
        evaluator.compute()


def test_update__refuses_other_classes_and_nan() -> None:
    evaluator = ClassificationEvaluator(NAMES, "data")
    with pytest.raises(DataError, match="4 classes, the data 3"):
        evaluator.update(torch.arange(1), torch.tensor([0]), torch.zeros(1, 4))
    with pytest.raises(DataError, match="labels from 0 to 3"):
        evaluator.update(torch.arange(2), torch.tensor([0, 3]), torch.zeros(2, 3))
    with pytest.raises(DataError, match="labels from -2 to 0"):
        evaluator.update(torch.arange(2), torch.tensor([0, -2]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        evaluator.update(torch.arange(1), torch.tensor([0]), torch.tensor([[0.0, torch.nan, 1.0]]))


def test_table__equal_classes_by_name__and_long_names_cut() -> None:
    evaluator = ClassificationEvaluator(["z", "b" * 40, "a"], "tied")
    evaluator.update(torch.arange(4), torch.tensor([0, 0, 1, 2]), logits_of([0, 0, 1, 2]))
    rows = format_table(evaluator.compute()).splitlines()[4:]
    assert [row.split()[0] for row in rows] == ["a", "b" * 31 + "…", "z"]
    assert len({len(row) for row in rows}) == 1


def test_table_and_json__worst_first_and_limited() -> None:
    evaluator = ClassificationEvaluator(NAMES, "hand")
    labels = torch.tensor([0, 0, 1, 1])
    evaluator.update(torch.arange(4), labels, logits_of([0, 0, 0, 1]))
    result = evaluator.compute()
    lines = format_table(result, most=1).splitlines()
    assert "top-1 0.7500" in lines[1]
    assert lines[2] == "1 of 2 classes, the worst first; 1 without images"
    assert lines[4].split() == ["b", "2", "1.000", "0.500", "0.667"]
    assert len(lines) == 5
    content = json.loads(result.to_json())
    assert content["per_class"]["b"]["recall"] == 0.5
    assert (content["images"], content["dataset"]) == (4, "hand")
    assert np.isclose(content["top5"], 1.0)
