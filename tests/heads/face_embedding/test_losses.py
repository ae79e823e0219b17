"""What an embedding learns from, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mobilevision.datasets.errors import DataError
from mobilevision.heads.face_embedding.losses import (
    ArcFace,
    CosFace,
    CosineDistance,
    EmbeddingLoss,
    LossSum,
    RelationalDistance,
    SquaredDifference,
)

NOBODY = torch.tensor([-1, -1])


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows), dim=1)


def test_squared_difference__by_hand() -> None:
    ours, theirs = unit([1.0, 0.0], [0.6, 0.8]), unit([0.0, 1.0], [0.6, 0.8])
    # (1 + 1 + 0) / 2 faces
    assert SquaredDifference()(ours, theirs, NOBODY)["squared"].item() == pytest.approx(1.0)
    assert SquaredDifference(0.5)(ours, theirs, NOBODY)["squared"].item() == pytest.approx(0.5)


def test_cosine__is_half_the_squared_difference_on_the_sphere() -> None:
    ours, theirs = F.normalize(torch.randn(2, 6, 5), dim=2)
    squared = SquaredDifference()(ours, theirs, NOBODY)["squared"]
    cosine = CosineDistance()(ours, theirs, NOBODY)["cosine"]
    assert cosine.item() == pytest.approx(squared.item() / 2, rel=1e-5)


def test_relational__by_hand() -> None:
    ours = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # distances 3, 4, 5, mean 4
    # Distances 1, 6, 5: mean 4, median 5.
    theirs = torch.tensor([[0.0], [1.0], [6.0]])
    gaps = [3 / 4 - 1 / 4, 4 / 4 - 6 / 4, 5 / 4 - 5 / 4]
    expected = sum(gap**2 / 2 for gap in gaps) / 3
    value = RelationalDistance()(ours, theirs, NOBODY)["relational"]
    assert value.item() == pytest.approx(expected)


def test_relational__turned_and_scaled_is_the_same() -> None:
    theirs = torch.randn(7, 3)
    ours = 5 * theirs[:, [2, 0, 1]]
    assert RelationalDistance()(ours, theirs, NOBODY)["relational"].item() < 1e-10


def test_relational__of_one_face_is_zero_and_has_a_gradient() -> None:
    ours = torch.randn(1, 3, requires_grad=True)
    RelationalDistance()(ours, torch.randn(1, 3), NOBODY)["relational"].backward()
    assert ours.grad is not None
    assert ours.grad.abs().sum() == 0


def test_arcface__by_hand() -> None:
    loss = ArcFace(2, 2, scale=4.0, margin=0.5)
    loss.centers.data = torch.tensor([[2.0, 0.0], [0.0, 0.3]])
    angle = 0.4
    faces = torch.tensor([[math.cos(angle), math.sin(angle)]])
    right, other = 4 * math.cos(angle + 0.5), 4 * math.sin(angle)
    expected = math.log(1 + math.exp(other - right))
    assert loss(faces, None, torch.tensor([0]))["identity"].item() == pytest.approx(expected, 1e-5)


def test_arcface__stays_monotone_beyond_half_a_turn() -> None:
    angles = torch.linspace(0, math.pi, 500)
    values = ArcFace(2, 2, margin=0.5).harder(torch.cos(angles))
    assert (values.diff() < 1e-6).all()


def test_arcface__gradient_is_finite_where_the_face_is_its_center() -> None:
    loss = ArcFace(2, 2)
    loss.centers.data = torch.eye(2)
    faces = torch.eye(2).requires_grad_()
    loss(faces, None, torch.tensor([0, 1]))["identity"].backward()
    assert faces.grad is not None
    assert faces.grad.isfinite().all()
    assert loss.centers.grad is not None
    assert loss.centers.grad.isfinite().all()


def test_cosface__by_hand() -> None:
    loss = CosFace(2, 2, scale=4.0, margin=0.35)
    loss.centers.data = torch.eye(2)
    expected = math.log(1 + math.exp(4 * 0.6 - 4 * (0.8 - 0.35)))
    value = loss(unit([0.8, 0.6]), None, torch.tensor([0]))["identity"]
    assert value.item() == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("kind", [ArcFace, CosFace])
def test_margins__faces_of_nobody_are_left_out(kind: type[EmbeddingLoss]) -> None:
    loss = kind(3, 4)  # type: ignore[call-arg]
    faces = F.normalize(torch.randn(5, 4), dim=1)
    owners = torch.tensor([0, -1, 2, -1, 1])
    some = loss(faces, None, owners)["identity"]
    assert some.item() == pytest.approx(
        loss(faces[owners >= 0], None, owners[owners >= 0])["identity"].item()
    )
    assert loss(faces, None, torch.full((5,), -1))["identity"].item() == 0


def test_margins__more_people_than_said() -> None:
    with pytest.raises(DataError, match=r"num_identities=3: the data has a person 3"):
        CosFace(3, 2)(torch.eye(2), None, torch.tensor([0, 3]))


def test_sum__has_the_parts_of_all_and_says_whether_a_teacher_is_needed() -> None:
    both = LossSum([SquaredDifference(), CosFace(2, 2)])
    parts = both(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    assert set(parts) == {"squared", "identity"}
    assert both.needs_teacher
    assert not LossSum([ArcFace(2, 2)]).needs_teacher
    with pytest.raises(ValueError, match="two losses are called"):
        LossSum([CosineDistance(), CosineDistance()])(torch.eye(2), torch.eye(2), NOBODY)
    with pytest.raises(ValueError, match="at least one"):
        LossSum([])


@pytest.mark.parametrize("kind", [SquaredDifference, CosineDistance, RelationalDistance])
def test_teacher__is_missed(kind: type[EmbeddingLoss]) -> None:
    with pytest.raises(DataError, match="there is none: name one"):
        kind()(torch.eye(2), None, NOBODY)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SquaredDifference(-1),
        lambda: ArcFace(1),
        lambda: ArcFace(3, scale=0),
        lambda: CosFace(3, margin=-0.1),
    ],
)
def test_options__out_of_range(make) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()
