import numpy as np
import pytest
import torch

from mobilevision.heads.classification import BatchMix


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.arange(4, dtype=torch.uint8).mul(60)[:, None, None, None].expand(4, 3, 8, 8)
    return images.contiguous(), torch.tensor([0, 1, 2, 0])


def test_mixup__blends_images_as_their_labels() -> None:
    images, labels = batch()
    mixed, probabilities = BatchMix(mixup_alpha=1.0)(images, labels, 3, (7,))
    before = images.float()
    # torchvision blends image i with image i - 1.
    share = (probabilities[1, 1]).item()
    assert 0 < share < 1
    assert torch.allclose(mixed[1], before[1] * share + before[0] * (1 - share), atol=1e-3)
    assert torch.allclose(probabilities.sum(1), torch.ones(4))
    assert probabilities[0, 0] == pytest.approx(1.0)  # both are of class 0


def test_cutmix__labels_are_shares_of_the_area() -> None:
    images, labels = batch()
    mixed, probabilities = BatchMix(mixup_alpha=0, cutmix_alpha=1.0)(images, labels, 3, (11,))
    own = (mixed[1, 0] == 60).float().mean().item()
    assert 0 < own < 1
    assert probabilities[1].tolist() == pytest.approx([1 - own, own, 0.0])


def test_same_seed__same_blend_and_torch_is_left_alone() -> None:
    images, labels = batch()
    state = torch.get_rng_state()
    mix = BatchMix(mixup_alpha=0.4, cutmix_alpha=1.0)
    first, again, other = (mix(images, labels, 3, seed) for seed in ((5, 0), (5, 0), (6, 0)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_p__share_of_the_batches__and_both_kinds_equally_often() -> None:
    images, labels = batch()
    mix = BatchMix(mixup_alpha=1.0, cutmix_alpha=1.0, p=0.25)
    blended = [
        mixed for step in range(400)
        if (mixed := mix(images, labels, 3, (step,))[0]) is not images
    ]  # fmt: skip
    assert 70 < len(blended) < 130
    # CutMix keeps the values of the pixels, which are 0, 60, 120 and 180.
    cut = sum(bool((mixed % 60 == 0).all()) for mixed in blended)
    assert 0.3 < cut / len(blended) < 0.7


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_mixup__alpha__is_that_of_the_beta_distribution(alpha: float) -> None:
    mix = BatchMix(mixup_alpha=alpha)
    shares = [mix(*batch(), 3, (step,))[1][1, 1].item() for step in range(500)]
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_cutmix__large_alpha__areas_nearer_to_a_half() -> None:
    spread = [
        np.std([
            BatchMix(0.0, cutmix_alpha=alpha)(*batch(), 3, (step,))[1][1, 1].item()
            for step in range(200)
        ])
        for alpha in (0.1, 10.0)
    ]  # fmt: skip
    assert spread[0] > 1.3 * spread[1]


def test_p_0__leaves_the_batch() -> None:
    images, labels = batch()
    same, unchanged = BatchMix(p=0.0)(images, labels, 3, (0,))
    assert same is images
    assert unchanged is labels


@pytest.mark.parametrize("options", [{"mixup_alpha": 0}, {"mixup_alpha": -1}, {"p": 2}])
def test_options__out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        BatchMix(**options)
