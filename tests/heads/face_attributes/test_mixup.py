import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mobilevision.datasets.types import AttributeBatch
from mobilevision.heads.face_attributes import BinaryCrossEntropy, FaceMixup, FocalLoss
from mobilevision.heads.face_attributes.losses import LabelLoss, expected_loss


def a_batch() -> AttributeBatch:
    torch.manual_seed(0)
    landmarks = torch.rand(3, 5, 2)
    landmarks[2, 1] = float("nan")
    return AttributeBatch(
        torch.randint(0, 256, (3, 3, 4, 2), dtype=torch.uint8),
        torch.tensor([[1, 0], [0, -1], [1, 0]], dtype=torch.int8),
        landmarks,
        torch.tensor([4, 5, 6]),
        torch.arange(3),
        tuple("abc"),
    )


def test_mixup__each_face_with_the_one_before__by_hand() -> None:
    batch = a_batch()
    mixed = FaceMixup(alpha=0.4)(batch, (7, 0))
    share = 1 - mixed.labels[1, 0].item()  # the second face has 0, the first 1
    assert 0 < share < 1
    expected = torch.tensor([[1.0, 0.0], [1 - share, -1.0], [share, -1.0]])
    torch.testing.assert_close(mixed.labels, expected)
    pixels = batch.images.float()
    torch.testing.assert_close(mixed.images[0], share * pixels[0] + (1 - share) * pixels[2])
    torch.testing.assert_close(mixed.images[2], share * pixels[2] + (1 - share) * pixels[1])
    points = share * batch.landmarks[1] + (1 - share) * batch.landmarks[0]
    torch.testing.assert_close(mixed.landmarks[1], points)
    assert mixed.landmarks[:, 1, 0].isnan().tolist() == [True, False, True]
    assert mixed[3:] == batch[3:]


def test_mixup__seed__says_what_is_drawn() -> None:
    batch, mixup = a_batch(), FaceMixup()
    assert torch.equal(mixup(batch, (3, 1)).images, mixup(batch, (3, 1)).images)
    assert not torch.equal(mixup(batch, (3, 1)).images, mixup(batch, (4, 1)).images)


def test_mixup__chance__leaves_the_other_batches() -> None:
    batch, mixup = a_batch(), FaceMixup(p=0.25)
    left = sum(mixup(batch, (step, 0)) is batch for step in range(400))
    assert 260 < left < 340
    assert FaceMixup(p=0.0)(batch, (0, 0)) is batch


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"p": -0.1}, {"p": 1.1}])
def test_mixup__bad_option__said(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FaceMixup(**options)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), FocalLoss()])
def test_expected_loss__plain_labels__the_loss_itself(loss: LabelLoss) -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]], dtype=torch.int8)
    torch.testing.assert_close(
        expected_loss(loss, logits, labels.float()), expected_loss(loss, logits, labels)
    )
    assert torch.equal(expected_loss(loss, logits, labels), loss(logits, labels))


def test_expected_loss__blended_labels__as_torch() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.7, 0.2]])
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    torch.testing.assert_close(expected_loss(BinaryCrossEntropy(), logits, labels), expected)
    yes, no = (FocalLoss()(logits, torch.full((1, 2), x, dtype=torch.int8)) for x in (1, 0))
    said = expected_loss(FocalLoss(), logits, labels)
    torch.testing.assert_close(said, labels * yes + (1 - labels) * no)
