import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from mobilevision.heads.face_attributes import BinaryCrossEntropy, ClassBalanced, FocalLoss
from mobilevision.heads.face_attributes.losses import landmark_loss, masked_mean

LOGITS = torch.tensor([[0.0, 2.0, -3.0], [1.0, -1.0, 0.5]])
LABELS = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)


def test_binary_cross_entropy__hand_calculated() -> None:
    loss = masked_mean(BinaryCrossEntropy()(LOGITS, LABELS), LABELS)
    parts = [math.log(2), math.log(1 + math.e**2), math.log(1 + math.e), math.log(1 + math.e**-0.5)]
    assert loss.item() == pytest.approx(sum(parts) / 4, rel=1e-6)


def test_binary_cross_entropy__smoothing__hand_calculated() -> None:
    loss = BinaryCrossEntropy(smoothing=0.2)(torch.tensor([[2.0]]), torch.tensor([[1]]))
    yes, no = math.log(1 + math.e**-2), math.log(1 + math.e**2)
    assert loss.item() == pytest.approx(0.9 * yes + 0.1 * no, rel=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss__as_torchvision(alpha: float | None) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4) * 5, torch.randint(0, 2, (6, 4))
    expected = sigmoid_focal_loss(
        logits, labels.float(), alpha=-1 if alpha is None else alpha, gamma=2.0
    )
    assert torch.allclose(FocalLoss(2.0, alpha)(logits, labels), expected, atol=1e-6)


def test_focal_loss__sure_logits__finite_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    FocalLoss()(logits, torch.tensor([[0, 1]])).sum().backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.tensor([[1.0, -1.0]]))


def test_class_balanced__hand_calculated() -> None:
    loss = ClassBalanced(beta=0.9)
    counts = torch.tensor([[1.0, 2.0], [5.0, 5.0]])
    # (1 - beta) / (1 - beta^n): 1 for one image, 0.1 / 0.19 for two.
    share = 0.1 / 0.19
    expected = [[2 / (1 + share), 2 * share / (1 + share)], [1.0, 1.0]]
    assert torch.allclose(loss.weights(counts), torch.tensor(expected))
    losses = loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), counts)
    assert torch.allclose(losses, math.log(2) * torch.tensor([[expected[0][1], 1.0]]))


def test_class_balanced__beta_near_one__weights_by_the_inverse() -> None:
    weights = ClassBalanced(beta=1 - 1e-9).weights(torch.tensor([[300.0, 100.0]]))
    assert torch.allclose(weights, torch.tensor([[0.5, 1.5]]), atol=1e-3)


def test_class_balanced__without_counts__says_so() -> None:
    with pytest.raises(ValueError, match="counts"):
        ClassBalanced()(LOGITS, LABELS)


def test_masked_mean__unknown_labels__give_neither_loss_nor_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    masked_mean(BinaryCrossEntropy()(logits, LABELS), LABELS).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == (LABELS == -1).tolist()
    nothing = torch.full_like(LABELS, -1)
    assert masked_mean(BinaryCrossEntropy()(LOGITS, nothing), nothing).item() == 0


def test_landmark_loss__hand_calculated() -> None:
    landmarks = torch.full((1, 5, 2), torch.nan)
    landmarks[0, 0] = torch.tensor([63.5, 39.5])  # half the width, a quarter of the height
    said = torch.full((1, 5, 2), 0.9, requires_grad=True)
    loss = landmark_loss(said, landmarks, (160, 128))
    # Smooth L1 with beta 0.01 of 0.4 and 0.65: each less 0.005.
    assert loss.item() == pytest.approx((0.395 + 0.645) / 2, rel=1e-5)
    loss.backward()
    assert said.grad is not None
    assert (said.grad[0, 1:] == 0).all()
    assert torch.isfinite(said.grad).all()
    assert landmark_loss(said, torch.full((1, 5, 2), torch.nan), (160, 128)).item() == 0


def test_losses__defaults_are_those_of_the_papers() -> None:
    assert (FocalLoss().gamma, FocalLoss().alpha) == (2.0, None)
    assert ClassBalanced().beta == 0.999
    assert BinaryCrossEntropy().smoothing == 0.0


def test_class_balanced__beta_0__weights_alike() -> None:
    weights = ClassBalanced(beta=0.0).weights(torch.tensor([[300.0, 100.0]]))
    assert weights.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "options"),
    [(BinaryCrossEntropy, {"smoothing": 1.0}), (FocalLoss, {"gamma": -1.0}),
     (FocalLoss, {"alpha": 0.0}), (FocalLoss, {"alpha": 1.0}), (ClassBalanced, {"beta": 1.0})],
)  # fmt: skip
def test_losses__option_out_of_range__refused(make: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)
