import math

import pytest
import torch

from mobilevision.datasets.types import DetectionTarget
from mobilevision.heads.detection.assigners import Matches
from mobilevision.heads.detection.boxes import BoxCoder, SSDOutput
from mobilevision.heads.face_detection.losses import (
    FaceLoss,
    decode_landmarks,
    encode_landmarks,
    landmark_loss,
)

ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [60.0, 0.0, 80.0, 20.0]])


def output(deltas: torch.Tensor | None = None) -> SSDOutput:
    batch = 1 if deltas is None else len(deltas)
    points = torch.zeros(batch, 3, 5, 2) if deltas is None else deltas
    return SSDOutput(
        torch.zeros(batch, 3, 4), torch.zeros(batch, 3, 2), ANCHORS, landmark_deltas=points
    )


def target(boxes, landmarks=None) -> DetectionTarget:
    box = torch.tensor([boxes])
    count = box.shape[1]
    return DetectionTarget(
        box, torch.zeros(1, count, dtype=torch.int64), torch.zeros(1, count, dtype=torch.bool),
        landmarks,
    )  # fmt: skip


def test_landmarks__encoded_by_hand() -> None:
    # Center (30, 30), sides of 20: (40, 25) is half a side right of it and a quarter above it.
    points = torch.tensor([[40.0, 25.0]]).expand(5, 2)
    encoded = encode_landmarks(points, ANCHORS[1], BoxCoder())
    torch.testing.assert_close(encoded, torch.tensor([[5.0, -2.5]]).expand(5, 2))
    torch.testing.assert_close(decode_landmarks(encoded, ANCHORS[1], BoxCoder()), points)


def test_landmark_loss__by_hand() -> None:
    roles = Matches(
        torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]]), torch.zeros(1, 3) > 0
    )
    points = torch.full((1, 2, 5, 2), torch.nan)
    points[0, 1] = torch.tensor([30.0, 30.0])  # the center of its anchor: offsets of zero
    points[0, 1, 4] = torch.nan  # one of the five is not annotated
    deltas = torch.full((1, 3, 5, 2), 3.0)
    faces = target([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]], points)
    # Four points, two coordinates each, 3 - 0.5 from zero; one anchor has landmarks.
    loss = landmark_loss(output(deltas), faces, roles, BoxCoder())
    assert loss.item() == pytest.approx(4 * 2 * 2.5)


@pytest.mark.parametrize("landmarks", [None, torch.full((1, 1, 5, 2), torch.nan)])
def test_landmark_loss__none_annotated__is_zero_with_a_gradient(landmarks) -> None:
    deltas = torch.ones(1, 3, 5, 2, requires_grad=True)
    faces = target([[0.0, 0.0, 10.0, 10.0]], landmarks)
    losses = FaceLoss()(output(deltas), faces, BoxCoder())
    losses["landmarks"].backward()
    assert losses["landmarks"].item() == 0
    assert deltas.grad is not None
    assert not deltas.grad.any()


def test_loss__no_face_at_all() -> None:
    nothing = DetectionTarget(
        torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 5, 2),
    )  # fmt: skip
    losses = FaceLoss()(output(), nothing, BoxCoder())
    assert {name: value.item() for name, value in losses.items()} == {
        "classification": 0.0, "box": 0.0, "landmarks": 0.0
    }  # fmt: skip


def test_loss__weights() -> None:
    points = torch.full((1, 1, 5, 2), 5.0)
    faces = target([[0.0, 0.0, 10.0, 20.0]], points)
    predicted = output(torch.ones(1, 3, 5, 2))
    once = FaceLoss(box_weight=1.0)(predicted, faces, BoxCoder())
    other = FaceLoss(box_weight=3.0, landmark_weight=0.5)(predicted, faces, BoxCoder())
    assert other["box"].item() == pytest.approx(3 * once["box"].item())
    assert once["landmarks"].item() == pytest.approx(10 * 0.5)
    assert other["landmarks"].item() == pytest.approx(10 * 0.25)
    # One positive and no more than seven negatives of equal logits, of which there are two.
    assert once["classification"].item() == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize(("height", "positive"), [(45.0, True), (55.0, False)])
def test_loss__the_best_anchor_of_a_face_is_positive_from_an_iou_of_0_2(height, positive) -> None:
    faces = target([[0.0, 0.0, 10.0, height]])
    matches = FaceLoss().assigner(output(), faces, BoxCoder(), "softmax")
    assert matches.positive.any().item() is positive
