import pytest
import torch

from mobilevision.heads.schedules import WarmupCosine


def rates(total_steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = WarmupCosine(optimizer, total_steps, **options)  # type: ignore[arg-type]
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


def test_warmup_cosine__takes_at_most_a_tenth_for_the_warm_up() -> None:
    assert rates(50, warmup_steps=1000)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
