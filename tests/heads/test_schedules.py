import pytest
import torch

from mobilevision.heads.schedules import Milestones, Staircase, WarmupCosine


def rates(total_steps: int, kind: type = WarmupCosine, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = kind(optimizer, total_steps, **options)
    values = []
    for _ in range(total_steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*values, optimizer.param_groups[0]["lr"]]


def test_warmup_cosine__rises_linearly_and_falls_to_zero() -> None:
    values = rates(100, warmup_steps=10)
    assert values[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.5)  # half of the cosine
    assert values[-1] == pytest.approx(0.0, abs=1e-12)


def test_warmup_cosine__ends_at_the_final_fraction() -> None:
    assert rates(50, warmup_steps=5, final_fraction=0.1)[-1] == pytest.approx(0.1)


def test_warmup_cosine__rises_from_the_initial_fraction() -> None:
    values = rates(100, warmup_steps=10, initial_fraction=0.5)
    assert values[:10] == pytest.approx([0.5 + step / 20 for step in range(1, 11)])
    assert values[55] == pytest.approx(0.5)


def test_warmup_cosine__takes_at_most_a_tenth_for_the_warm_up() -> None:
    assert rates(50, warmup_steps=1000)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_warmup_cosine__defaults__a_thousand_steps_and_down_to_nothing() -> None:
    values = rates(20_000)
    assert values[998:1001] == pytest.approx([0.999, 1.0, 1.0])
    assert values[1001] < 1.0
    assert values[-1] == pytest.approx(0.0, abs=1e-12)


def test_staircase__drops_at_equal_distances() -> None:
    values = rates(10, Staircase, drops=4, factor=0.5)  # parts of 3 steps, the last is shorter
    assert values == pytest.approx([1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125] * 2)


def test_staircase__defaults__are_inceptions() -> None:
    values = rates(100, Staircase)  # 100 epochs of one step
    assert values[:5] == pytest.approx([1.0, 1.0, 0.94, 0.94, 0.94**2])
    assert values[99] == pytest.approx(0.94**49)


def test_milestones__fall_at_shares_of_the_training() -> None:
    values = rates(10, Milestones, at=(0.5, 0.8), factor=0.5)
    assert values == pytest.approx([1.0] * 5 + [0.5] * 3 + [0.25] * 3)


def test_milestones__defaults__are_those_of_the_public_face_detector() -> None:
    values = rates(250, Milestones)  # 250 epochs of one step, drops at 190 and 220
    assert values[189:191] == pytest.approx([1.0, 0.1])
    assert values[219:221] == pytest.approx([0.1, 0.01])
