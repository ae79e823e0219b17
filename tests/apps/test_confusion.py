import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mobilevision.apps.confusion import Pair, draw_confusion, most_confused
from mobilevision.heads.classification.metrics import ClassificationResult, Predictions, measure


def result_of(classes: int, images: int = 400) -> ClassificationResult:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    said = np.where(rng.random(images) < 0.7, labels, (labels + 1) % classes)
    predictions = Predictions(
        np.arange(images), labels, said[:, None], np.ones((images, 1), np.float32)
    )
    return measure(predictions, [f"class {k}" for k in range(classes)], "made up")


def draw(result: ClassificationResult) -> Figure:
    return draw_confusion(result.confusion, list(result.per_class), "made up")


def test_most_confused__hand_calculated() -> None:
    confusion = np.array([[5, 3, 0], [1, 9, 0], [4, 0, 0]])
    assert most_confused(confusion) == [
        Pair(2, 0, 4, 1.0), Pair(0, 1, 3, 3 / 8), Pair(1, 0, 1, 1 / 10),
    ]  # fmt: skip
    assert most_confused(confusion, most=1) == [Pair(2, 0, 4, 1.0)]
    assert most_confused(np.diag([3, 4])) == []
    assert most_confused(confusion, background=True) == [
        Pair(0, 1, 3, 3 / 8), Pair(1, 0, 1, 1 / 10),
    ]  # fmt: skip


@pytest.mark.parametrize("classes", [1, 3, 30, 31, 1000])
def test_draw__is_a_image_that_fits_a_screen(classes: int) -> None:
    png = io.BytesIO()
    draw(result_of(classes)).savefig(png, format="png")
    with Image.open(png) as image:
        assert image.width <= 2000
        assert image.height <= 1600
        assert len(np.unique(np.asarray(image.convert("L")))) > 20, "there is something in it"


def test_draw__small_matrices_have_numbers_and_large_ones_the_worst_pairs() -> None:
    small = draw(result_of(3)).axes[0]
    expected = {f"{count:,}" for count in result_of(3).confusion.flatten() if count}
    assert {text.get_text() for text in small.texts} == expected
    pairs, matrix = draw(result_of(100)).axes[:2]
    worst = most_confused(result_of(100).confusion)[0]
    assert pairs.get_yticklabels()[0].get_text() == f"class {worst.true} → class {worst.predicted}"
    assert len(matrix.get_xticklabels()) <= 30


def test_draw__without_any_mistake() -> None:
    labels = np.arange(40)
    perfect = measure(
        Predictions(labels, labels, labels[:, None], np.ones((40, 1), np.float32)),
        [str(k) for k in range(40)],
        "easy",
    )
    assert draw(perfect).axes[0].texts[0].get_text() == "none"
