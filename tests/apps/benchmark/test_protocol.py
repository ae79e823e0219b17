"""Who has a turn when, which rounds count, and what is timed: by hand, with made-up clocks."""

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest

from mobilevision.apps.benchmark.processes import quiet_rounds, take_turns, timed


class Clock:
    """Stands still but when something runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls = 0

    def __call__(self) -> float:
        return self.now

    def runs_for(self, *seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def run() -> None:
            self.now += next(left)
            self.calls += 1

        return run


def says(*values: float) -> Callable[[], float]:
    left = iter(values)
    return lambda: next(left)


def test_timed__median_of_the_calls_after_those_that_settle() -> None:
    clock = Clock()
    # 0.5 + 0.5 settle; of 1, 5, 3 the median is 3
    assert timed(clock.runs_for(0.5, 0.5, 1.0, 5.0, 3.0), 3, 0.75, clock) == 3
    assert clock.calls == 5


def test_timed__nothing_to_settle__one_call_untimed() -> None:
    clock = Clock()
    assert timed(clock.runs_for(9.0, 1.0, 2.0), 2, 0.0, clock) == 1.5


def test_take_turns__order_moves_on_and_warm_up_is_not_noted() -> None:
    order: list[str] = []

    def turn(name: str, values: Iterator[float]) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return next(values)

        return run

    advanced: list[None] = []
    rounds = take_turns(
        {"a": turn("a", iter([9.0, 1.0, 2.0])), "b": turn("b", iter([9.0, 4.0, 6.0]))},
        turn("r", repeat(1.0)),
        rounds=2,
        warm_up=1,
        advance=lambda: advanced.append(None),
    )
    assert "".join(order) == "rbrar" + "rarbr" + "rbrar"
    assert rounds.seconds == {"a": [1.0, 2.0], "b": [4.0, 6.0]}
    assert len(advanced) == 6


def test_take_turns__noisy_round__dropped_for_all_sides() -> None:
    # Slowest runs of the reference by round: 1.0, 1.2, 1.1, 1.3, 1.1. Their median is 1.1, so more
    # than 1.265 is noise: the fourth round goes, whatever the sides took in it.
    readings = [1.0, 1.0, 1.0, 1.2, 1.1, 1.0, 1.3, 1.0, 1.1, 1.0]
    rounds = take_turns({"a": says(10, 20, 30, 4000, 50)}, says(*readings), rounds=5, warm_up=0)
    assert rounds.kept == [0, 1, 2, 4]
    assert rounds.dropped == 1
    assert rounds.median("a") == 25
    assert rounds.quartiles("a") == (17.5, 35)
    assert rounds.reference() == 1.0  # of 1 1 1 1.2 1.1 1 1.1 1


def test_rounds__ratio__median_of_the_pairs_and_not_ratio_of_the_medians() -> None:
    rounds = take_turns(
        {"slow": says(10, 12, 90), "fast": says(5, 2, 30)}, says(*repeat(1.0, 9)), 3, warm_up=0
    )
    assert rounds.ratio("slow", "fast") == 3  # of 2, 6, 3; the medians say 12 / 5
    assert rounds.ratio("fast", "slow") == pytest.approx(1 / 3)


def test_quiet_rounds__at_least_half_are_kept() -> None:
    assert quiet_rounds([[1.0], [1.0], [9.0], [8.0]]) == [0, 1]
    assert quiet_rounds([[2.0, 1.0], [1.0, 2.3], [2.0, 2.0]]) == [0, 1, 2]
    assert quiet_rounds([[2.0, 1.0], [1.0, 2.31], [2.0, 2.0]]) == [0, 2]
    assert quiet_rounds([[5.0]]) == [0]


def test_take_turns__single_round__quartiles_are_its_value() -> None:
    rounds = take_turns({"a": says(*chain([7.0]))}, says(1.0, 1.0), rounds=1, warm_up=0)
    assert rounds.quartiles("a") == (7, 7)
