"""RetinaFace's loss: SSD's, and smooth L1 on the offsets of landmarks.

Deng et al. 2019, equation 1, without its last term, the dense regression of the 3D face.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...datasets.types import DetectionTarget
from ..detection.assigners import Assigner, Matches, MaxIoUAssigner
from ..detection.boxes import BoxCoder, ScoreActivation, SSDOutput
from ..detection.losses import AnchorLoss, BoxLoss, ClassificationLoss, MinedCrossEntropy


def encode_landmarks(points: Tensor, anchors: Tensor, box_coder: BoxCoder) -> Tensor:
    """Return the offsets (..., 5, 2) of points (..., 5, 2) in px from anchors (..., 4) xyxy.

    They are encoded as the center of a box is: relative to the anchor's center, divided by its
    sides, times the coder's weights.
    """
    sides = (anchors[..., 2:] - anchors[..., :2])[..., None, :]
    centers = ((anchors[..., 2:] + anchors[..., :2]) / 2)[..., None, :]
    return (points - centers) / sides * box_coder.weights[:2]


def decode_landmarks(deltas: Tensor, anchors: Tensor, box_coder: BoxCoder) -> Tensor:
    """Return the points (..., 5, 2) in px of offsets (..., 5, 2) at anchors (..., 4) xyxy."""
    sides = (anchors[..., 2:] - anchors[..., :2])[..., None, :]
    centers = ((anchors[..., 2:] + anchors[..., :2]) / 2)[..., None, :]
    return deltas / box_coder.weights[:2] * sides + centers


class FaceLoss(AnchorLoss):
    """Classes and boxes as in SSD, and landmarks where they are annotated.

    The loss of the landmarks is divided by the number of positive anchors that have any. The
    defaults are those of the public network's training.

    Args:
        assigner: None takes ``MaxIoUAssigner``: positive from an IoU of 0.35, and the best anchor
            of a face from 0.2.
        classification: None takes ``MinedCrossEntropy`` with seven negatives for each positive.
        box: None takes ``SmoothL1BoxLoss()``.
        box_weight: Factor of the box loss.
        landmark_weight: Factor of the landmark loss.
    """

    def __init__(
        self,
        assigner: Assigner | None = None,
        classification: ClassificationLoss | None = None,
        box: BoxLoss | None = None,
        box_weight: float = 2.0,
        landmark_weight: float = 1.0,
    ) -> None:
        super().__init__(
            assigner or MaxIoUAssigner(0.35, least_best_iou=0.2),
            classification or MinedCrossEntropy(7.0, min_negatives=0),
            box,
            box_weight,
        )
        self.landmark_weight = landmark_weight

    def parts(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        matches: Matches,
        box_coder: BoxCoder,
        score_activation: ScoreActivation,
    ) -> dict[str, Tensor]:
        """Return the parts of ``AnchorLoss`` and ``landmarks``."""
        parts = super().parts(output, target, matches, box_coder, score_activation)
        landmarks = landmark_loss(output, target, matches, box_coder)
        return parts | {"landmarks": self.landmark_weight * landmarks}


def landmark_loss(
    output: SSDOutput, target: DetectionTarget, matches: Matches, box_coder: BoxCoder
) -> Tensor:
    """Return smooth L1 over the coordinates of the annotated landmarks, a scalar.

    It is the mean over the positive anchors with an annotated landmark, 0 without one. A landmark
    is annotated if both coordinates are finite.
    """
    assert output.landmark_deltas is not None
    deltas = output.landmark_deltas.float()
    if target.landmarks is None or target.labels.shape[1] == 0:
        return deltas.sum() * 0.0
    rows = matches.objects[..., None, None].expand(-1, -1, *target.landmarks.shape[2:])
    points = target.landmarks.gather(1, rows)
    known = points.isfinite().all(dim=-1) & matches.positive[..., None]  # (B, A, 5)
    wanted = encode_landmarks(points, output.anchors, box_coder)
    # Not multiplied by the mask, which would keep NaN.
    wanted = torch.where(known[..., None], wanted, 0.0)
    losses = F.smooth_l1_loss(deltas, wanted, reduction="none").sum(dim=-1)
    return losses.masked_fill(~known, 0.0).sum() / known.any(dim=-1).sum().clamp_min(1)
