"""Every loss of every job on a batch without images: zero, with a gradient that is zero."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilevision.datasets.types import DetectionTarget
from mobilevision.heads import distillation
from mobilevision.heads.detection import faster_rcnn_losses
from mobilevision.heads.detection import losses as detection_losses
from mobilevision.heads.detection.assigners import ATSSAssigner, Matches, SimOTAAssigner
from mobilevision.heads.detection.boxes import BoxCoder, MapLayout, SSDOutput
from mobilevision.heads.detection.distillation import soft_class_losses
from mobilevision.heads.detection.faster_rcnn_heads import Proposals, RoIOutput, RPNOutput
from mobilevision.heads.face_attributes import losses as attribute_losses
from mobilevision.heads.face_embedding import losses as embedding_losses
from mobilevision.heads.geolocation import losses as geolocation_losses

MODULES = (
    attribute_losses, detection_losses, distillation, embedding_losses,
    faster_rcnn_losses, geolocation_losses,
)  # fmt: skip
NOT_LOSSES = {"CachedTeacher", "Distillation", "ModelTeacher", "RoISample", "Teacher"}
CODER = BoxCoder()
ANCHORS = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 16.0, 16.0]])
NOBODY = torch.zeros(0, dtype=torch.int64)

Ask = Callable[[Any], Any]


def empty(*shape: int) -> Tensor:
    return torch.zeros(0, *shape, requires_grad=True)


def target(rows: int) -> DetectionTarget:
    labels = torch.zeros(0, rows, dtype=torch.int64)
    return DetectionTarget(torch.zeros(0, rows, 4), labels, labels.bool())


def box(loss: nn.Module) -> Tensor:
    return loss(empty(2, 4), torch.zeros(0, 2, 4), ANCHORS, torch.zeros(0, 2).bool(), CODER)


def classes(activation: str) -> Ask:
    columns = torch.zeros(0, 2, dtype=torch.int64)
    matches = Matches(columns, columns.bool(), columns.bool())
    return lambda loss: loss(empty(2, 4), columns, matches, activation)


def anchors(rows: int) -> Ask:
    output = SSDOutput(empty(2, 4), empty(2, 4), ANCHORS, (MapLayout(2, 1),))
    return lambda loss: loss(output, target(rows), CODER)


def rpn(rows: int) -> Ask:
    output = RPNOutput(empty(2), empty(2, 4), ANCHORS)
    return lambda loss: loss(output, target(rows), CODER)


def roi(rows: int) -> Ask:
    proposals = Proposals(torch.zeros(0, 3, 4), torch.zeros(0, 3).bool())

    def ask(loss: faster_rcnn_losses.RoILoss) -> Any:
        chosen = loss.choose(proposals, target(rows), CODER)
        places = chosen.boxes.shape[1]
        return loss(RoIOutput(empty(places, 4), empty(places, 3, 4)), chosen)

    return ask


def taught(loss: nn.Module) -> Any:
    return loss(empty(8), torch.zeros(0, 8), NOBODY)


def labels(loss: Any) -> Tensor:
    known = torch.zeros(0, 3, dtype=torch.int8)
    losses = attribute_losses.expected_loss(loss, empty(3), known, torch.ones(3, 2))
    return attribute_losses.masked_mean(losses, known)


def objective(loss: distillation.DistillationObjective) -> Any:
    class Teacher:
        def __call__(self, images: Tensor, paths: Any) -> Tensor:
            del paths
            return torch.zeros(len(images), 3)

    images = torch.zeros(0, 3, 8, 8)
    return distillation.Distillation(Teacher(), loss)(empty(3), images, ())  # type: ignore[arg-type]


def cells(loss: nn.Module) -> Any:
    return loss([empty(3), empty(4)], [NOBODY, NOBODY], torch.zeros(0, 3),
                [torch.eye(3), torch.eye(3)[[0, 0, 1, 2]]])  # fmt: skip


LOSSES: list[tuple[Any, Ask]] = [
    (detection_losses.SmoothL1BoxLoss(), box),
    (detection_losses.IoUBoxLoss("giou"), box),
    (detection_losses.IoUBoxLoss("ciou"), box),
    (detection_losses.MinedCrossEntropy(), classes("softmax")),
    (detection_losses.MinedCrossEntropy(), classes("sigmoid")),
    (detection_losses.FocalLoss(), classes("softmax")),
    (detection_losses.FocalLoss(), classes("sigmoid")),
    (detection_losses.MultiBoxLoss(), anchors(0)),
    (detection_losses.MultiBoxLoss(), anchors(2)),
    (detection_losses.AnchorLoss(ATSSAssigner()), anchors(0)),
    (detection_losses.AnchorLoss(ATSSAssigner()), anchors(2)),
    (detection_losses.AnchorLoss(SimOTAAssigner()), anchors(0)),
    (detection_losses.AnchorLoss(SimOTAAssigner()), anchors(2)),
    (faster_rcnn_losses.RPNLoss(), rpn(0)),
    (faster_rcnn_losses.RPNLoss(), rpn(2)),
    (faster_rcnn_losses.RoILoss(), roi(0)),
    (faster_rcnn_losses.RoILoss(), roi(2)),
    (embedding_losses.SquaredDifference(), taught),
    (embedding_losses.CosineDistance(), taught),
    (embedding_losses.RelationalDistance(), taught),
    (embedding_losses.ArcFace(3, 8), taught),
    (embedding_losses.CosFace(3, 8), taught),
    (embedding_losses.TripletLoss(), taught),
    (
        embedding_losses.LossSum(
            [embedding_losses.CosineDistance(), embedding_losses.ArcFace(3, 8)]
        ),
        taught,
    ),
    (attribute_losses.BinaryCrossEntropy(), labels),
    (attribute_losses.FocalLoss(), labels),
    (attribute_losses.ClassBalanced(), labels),
    (distillation.SoftTargets(), objective),
    (distillation.SoftLabels(), objective),
    (geolocation_losses.CellLoss(), cells),
    (geolocation_losses.CellLoss(70.0), cells),
]


@pytest.mark.parametrize(
    ("loss", "ask"),
    LOSSES,
    ids=[f"{i}-{type(loss).__name__}" for i, (loss, _) in enumerate(LOSSES)],
)
def test_loss__of_no_images__is_zero_with_a_graph(loss: Any, ask: Ask) -> None:
    found = ask(loss)
    parts = list(found.values()) if isinstance(found, dict) else [found]
    total = torch.stack(parts).sum()
    assert total.item() == 0
    assert total.requires_grad
    total.backward()
    if isinstance(loss, nn.Module):
        for parameter in loss.parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()


def test_functions__of_no_images__are_zero_with_a_graph() -> None:
    landmarks = attribute_losses.landmark_loss(empty(5, 2), torch.zeros(0, 5, 2), (8, 8))
    softened = [soft_class_losses(empty(2, 4), torch.zeros(0, 2, 4), activation, 2.0).sum()
                for activation in ("softmax", "sigmoid")]  # fmt: skip
    for total in (landmarks, *softened):
        assert total.item() == 0
        total.backward()


def test_losses__none_is_forgotten() -> None:
    defined = {
        name
        for module in MODULES
        for name, made in inspect.getmembers(module, inspect.isclass)
        if made.__module__ == module.__name__
        and "__call__" in dir(made)
        and not name.startswith("_")
    }
    bases = {"BoxLoss", "ClassificationLoss", "DistillationObjective", "EmbeddingLoss", "LabelLoss"}
    tried = {type(loss).__name__ for loss, _ in LOSSES}
    assert defined - bases - NOT_LOSSES == tried
