import numpy as np
import pytest
import torch

from mobilevision.datasets.types import Detections
from mobilevision.heads.face_detection.metrics import (
    FaceEvaluator,
    format_faces,
    subset_precisions,
)


def face(number: int, image: int, *box: float) -> dict:
    return {"id": number, "image_id": image, "bbox": list(box), "category_id": 1}


def detection(image: int, score: float, *box: float) -> dict:
    return {"image_id": image, "category_id": 1, "score": score, "bbox": list(box)}


FACES = [face(1, 7, 0, 0, 20, 20), face(2, 7, 50, 50, 10, 10), face(3, 8, 0, 0, 40, 40)]
FOUND = [
    detection(7, 0.9, 0, 0, 20, 20),  # face 1
    detection(7, 0.7, 1, 0, 20, 20),  # face 1 again
    detection(7, 0.5, 50, 50, 10, 10),  # face 2
    detection(8, 0.6, 0, 0, 40, 40),  # face 3
    detection(8, 0.1, 90, 90, 9, 9),  # nothing
]


def test_precision__by_hand() -> None:
    subsets = {"easy": frozenset([1, 3]), "hard": frozenset([1, 2, 3]), "none": frozenset[int]()}
    found = subset_precisions(FACES, FOUND, subsets, {7, 8})
    # By falling score: right, again, right (3), right (2), nothing.
    # hard: precision 1, 1/2, 2/3, 3/4, 3/5 at recall 1/3, 1/3, 2/3, 1, 1; monotonous 1, 3/4, 3/4.
    assert found["hard"] == pytest.approx(1 / 3 + 3 / 4 / 3 + 3 / 4 / 3)
    # easy, where face 2 counts for nothing: 1 and 2/3 at recall 1/2 and 1.
    assert found["easy"] == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert found["none"] == -1.0


def test_precision__images_without_detections_lower_recall() -> None:
    subsets = {"all": frozenset([1, 2, 3])}
    found = subset_precisions(FACES, FOUND[:1], subsets, {7, 8})
    assert found["all"] == pytest.approx(1 / 3)
    assert subset_precisions(FACES, [], subsets, {7, 8}) == {"all": 0.0}
    assert subset_precisions(FACES, FOUND, subsets, {7})["all"] == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_precision__sides_include_the_last_pixel() -> None:
    # 5 x 10 of 10 x 10 pixels: IoU 0.5 by areas, 6 x 11 / 11 x 11 = 0.545 in the protocol; one
    # column less is 5 x 11 / 11 x 11 = 0.4545.
    subsets, faces = {"all": frozenset([1])}, [face(1, 7, 0, 0, 10, 10)]
    assert subset_precisions(faces, [detection(7, 1, 0, 0, 5, 10)], subsets, {7})["all"] == 1.0
    assert subset_precisions(faces, [detection(7, 1, 0, 0, 4, 10)], subsets, {7})["all"] == 0.0


def test_precision__scores_are_scaled_over_all_images() -> None:
    subsets = {"all": frozenset([1, 2, 3])}
    squeezed = [row | {"score": 0.2 + row["score"] / 100} for row in FOUND]
    first, second = (subset_precisions(FACES, rows, subsets, {7, 8}) for rows in (FOUND, squeezed))
    assert first == pytest.approx(second)


def official(faces: list, found: list, counted: frozenset, images: set) -> float:
    """The evaluation tools step by step: loops over thresholds, images and detections."""
    low, high = (f(row["score"] for row in found) for f in (min, max))
    curve = np.zeros((1000, 2))
    total = 0
    for image in images:
        truth = [row for row in faces if row["image_id"] == image]
        rows = sorted((r for r in found if r["image_id"] == image), key=lambda row: -row["score"])
        total += sum(row["id"] in counted for row in truth)
        if not truth or not rows:
            continue
        state = dict.fromkeys((row["id"] for row in truth), 0)
        proposal, recall = [], []
        for row in rows:
            best, most = None, -1.0
            for other in truth:
                (ax, ay, aw, ah), (bx, by, bw, bh) = row["bbox"], other["bbox"]
                width = max(min(ax + aw, bx + bw) - max(ax, bx) + 1, 0)
                height = max(min(ay + ah, by + bh) - max(ay, by) + 1, 0)
                union = (aw + 1) * (ah + 1) + (bw + 1) * (bh + 1) - width * height
                if width * height / union > most:
                    best, most = other["id"], width * height / union
            counts = 1
            if most >= 0.5:
                if best not in counted:
                    state[best], counts = -1, 0
                elif state[best] == 0:
                    state[best] = 1
            proposal.append(counts)
            recall.append(sum(value == 1 for value in state.values()))
        scores = [(row["score"] - low) / (high - low) for row in rows]
        for step in range(1000):
            above = [k for k, score in enumerate(scores) if score >= 1 - (step + 1) / 1000]
            if above:
                curve[step] += (sum(proposal[: above[-1] + 1]), recall[above[-1]])
    recalls = [0.0, *(curve[:, 1] / total), 1.0]
    precisions = [0.0, *(r / p if p else 0.0 for p, r in curve), 0.0]
    for index in reversed(range(len(precisions) - 1)):
        precisions[index] = max(precisions[index], precisions[index + 1])
    steps = range(1, len(recalls))
    return sum((recalls[k] - recalls[k - 1]) * precisions[k] for k in steps)


@pytest.mark.parametrize("seed", range(3))
def test_precision__equals_the_tools_step_by_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    faces, found = [], []
    for image in range(12):
        for _ in range(int(rng.integers(0, 6))):
            box = np.concatenate([rng.integers(0, 80, 2), rng.integers(5, 40, 2)]).astype(float)
            faces.append(face(len(faces) + 1, image, *box))
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.normal(0, 4, 4)
                found.append(detection(image, float(rng.random()), *moved[:2], *moved[2:].clip(1)))
        stray = rng.random(int(rng.integers(0, 3))).tolist()
        found += [detection(image, score, 90.0, 90.0, 30.0, 20.0) for score in stray]
    counted = frozenset(row["id"] for row in faces if rng.random() < 0.7)
    ours = subset_precisions(faces, found, {"some": counted}, set(range(12)))["some"]
    theirs = official(faces, found, counted, set(range(12)))
    assert 0.05 < theirs < 0.95
    assert ours == pytest.approx(theirs, abs=1e-12)


def evaluated(subsets: dict) -> str:
    truth = {
        "images": [{"id": 7}],
        "annotations": FACES[:2],
        "categories": [{"id": 1, "name": "face"}],
    }
    evaluator = FaceEvaluator(truth, {1: "face"}, "drawn faces", subsets)
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 0.0, 0.0]]])
    found = Detections(boxes, torch.tensor([[0.9, 0.0]]), torch.tensor([[0, -1]]))
    evaluator.update(torch.tensor([7]), found)
    result = evaluator.compute()
    assert ("wider_face" in result.as_dict()) == bool(subsets)
    assert result.numbers["AR1"] == pytest.approx(0.5)
    return format_faces(result)


def test_evaluator__with_and_without_subsets() -> None:
    assert "WIDER" not in evaluated({})
    table = evaluated({"easy": frozenset([1]), "hard": frozenset([1, 2])})
    assert table.endswith("IoU 0.50\n easy    1.000\n hard    0.500\n")
