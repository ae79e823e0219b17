"""What an embedding learns from, by hand."""

import itertools
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
    TripletLoss,
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


def on_circle(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def squared(degrees: float) -> float:
    """The squared distance of two points of the unit circle."""
    return 2 - 2 * math.cos(math.radians(degrees))


def triplet(faces: torch.Tensor, people: list[int], margin: float = 0.2) -> float:
    return TripletLoss(margin)(faces, None, torch.tensor(people))["triplet"].item()


def test_triplet__takes_the_nearest_negative_that_is_farther_than_the_positive() -> None:
    # A person at 0 and 20 degrees; others at 10 (nearer), 30 and 90.
    faces, people = on_circle(0, 20, 10, 30, 90), [0, 0, 1, 2, 3]
    from_first = squared(20) - squared(30) + 0.2
    from_second = squared(20) - squared(70) + 0.2  # 10 and 30 are nearer to 20
    assert from_second < 0 < from_first
    assert triplet(faces, people) == pytest.approx(from_first / 2)


def test_triplet__all_negatives_nearer__takes_the_farthest() -> None:
    faces, people = on_circle(0, 60, 10, 20), [0, 0, 1, 2]
    from_first, from_second = (squared(60) - squared(far) + 0.2 for far in (20, 50))
    assert triplet(faces, people) == pytest.approx((from_first + from_second) / 2)


def test_triplet__equally_far_negative_is_not_farther() -> None:
    faces, people = on_circle(0, 30, -30, -90), [0, 0, 1, 1]
    # From 0: 30 and -30 are equally far, so -90. From 30: -30 is the nearest that is farther.
    # From -30: the positive is at 60, 30 at 60 as well, and 0 nearer: the farthest is 30.
    # From -90: the positive is at 60, and 0 and 30 are farther: 0.
    lacking = [squared(30) - squared(90), squared(30) - squared(60), 0, squared(60) - squared(90)]
    expected = sum(max(0.0, value + 0.2) for value in lacking) / 4
    assert triplet(faces, people) == pytest.approx(expected)


def test_triplet__margin_kept__no_loss_and_no_gradient() -> None:
    faces = on_circle(0, 1, 90, 91).requires_grad_()
    value = TripletLoss()(faces, None, torch.tensor([0, 0, 1, 1]))["triplet"]
    value.backward()
    assert value.item() == 0
    assert faces.grad is not None
    assert not faces.grad.any()


def naive_triplet(rows: torch.Tensor, people: list[int], margin: float) -> torch.Tensor:
    """The loss in loops, over faces of known people."""
    terms = []
    for anchor, positive in itertools.permutations(range(len(rows)), 2):
        if people[anchor] != people[positive] or people[anchor] < 0:
            continue
        distance = (rows[anchor] - rows[positive]).square().sum()
        others = [i for i, person in enumerate(people) if person not in (-1, people[anchor])]
        negatives = sorted((rows[anchor] - rows[i]).square().sum() for i in others)
        farther = [value for value in negatives if value > distance]
        terms.append((distance - (farther or negatives[-1:])[0] + margin).clamp_min(0))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("seed", range(4))
def test_triplet__value_and_gradient_as_in_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(16, 3, generator=generator)
    people = torch.randint(-1, 4, (16,), generator=generator).tolist()
    ours, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    value = TripletLoss(0.3, 2.0)(F.normalize(ours, dim=1), None, torch.tensor(people))["triplet"]
    expected = 2 * naive_triplet(F.normalize(theirs, dim=1), people, 0.3)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([-1, -1, -1], "nobody in this batch is known"),
        ([0, 1, 2], "3 faces has 3 known people and no such three. Set data.faces_per_person"),
        ([0, 0, -1], "3 faces has 1 known people"),
    ],
)
def test_triplet__batch_without_triplets(people: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TripletLoss()(on_circle(0, 10, 20), None, torch.tensor(people))


def test_triplet__margin_out_of_range() -> None:
    with pytest.raises(ValueError, match="margin=0"):
        TripletLoss(0)
