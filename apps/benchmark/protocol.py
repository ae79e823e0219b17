"""Sides that take turns, and which rounds count. Free of torch.

Every round, each side has a turn. A kernel that never changes runs before the first turn, between
turns and after the last; where the slowest of its runs in a round took more than ``NOISE_LIMIT``
times the median of those of all rounds, somebody else used the machine, and the whole round is
dropped for all sides. Since the limit is above the median, at least half of the rounds are kept.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

NOISE_LIMIT = 1.15
"""Of the median of the reference, above which a round is dropped."""
RULE = (
    f"a round is dropped where the slowest run of the reference kernel took more than {NOISE_LIMIT}"
    " times the median of those of all rounds"
)
SETTLE_S = 0.02
"""How long a side runs untimed at the start of a turn: threads of the side before spin on."""

Name = TypeVar("Name", bound=Hashable)
Turn = Callable[[], float]
"""Runs a side and returns the seconds of one call."""


class Rounds(NamedTuple, Generic[Name]):
    """What the rounds took."""

    seconds: dict[Name, list[float]]
    """Of each side in each round, dropped ones included."""
    readings: list[list[float]]
    """Runs of the reference kernel in each round."""
    kept: list[int]
    """Numbers of the rounds that count."""

    @property
    def dropped(self) -> int:
        """Rounds that do not count."""
        return len(self.readings) - len(self.kept)

    def of(self, name: Name) -> list[float]:
        """Seconds of a side in the rounds that count."""
        return [self.seconds[name][number] for number in self.kept]

    def reference(self) -> float:
        """Median of the reference kernel over the rounds that count, in seconds."""
        return statistics.median(took for number in self.kept for took in self.readings[number])

    def median(self, name: Name) -> float:
        """Median of a side over the rounds that count, in seconds."""
        return statistics.median(self.of(name))

    def quartiles(self, name: Name) -> tuple[float, float]:
        """First and third quartile of a side over the rounds that count, in seconds."""
        values = self.of(name)
        if len(values) < 2:
            return values[0], values[0]
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        return first, third

    def ratio(self, slow: Name, fast: Name) -> float:
        """Median over the rounds that count of how many times longer ``slow`` took."""
        pairs = zip(self.of(slow), self.of(fast), strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


def take_turns(
    turns: Mapping[Name, Turn],
    reference: Turn,
    rounds: int,
    warm_up: int = 2,
    advance: Callable[[], object] = lambda: None,
) -> Rounds[Name]:
    """Let all sides have a turn in each round; the order moves on by one each time.

    Args:
        turns: Name of a side -> its turn.
        reference: Turn of the reference kernel.
        rounds: Rounds that are noted, at least 1.
        warm_up: Rounds before them.
        advance: Called after each turn, for a progress bar.
    """
    names = list(turns)
    seconds: dict[Name, list[float]] = {name: [] for name in names}
    noted = []
    for number in range(-warm_up, rounds):
        first = number % len(names)
        readings = [reference()]
        for name in names[first:] + names[:first]:
            took = turns[name]()
            readings.append(reference())
            if number >= 0:
                seconds[name].append(took)
            advance()
        if number >= 0:
            noted.append(readings)
    return Rounds(seconds, noted, quiet_rounds(noted))


def quiet_rounds(readings: list[list[float]]) -> list[int]:
    """Numbers of the rounds that count, by what the reference took in each."""
    slowest = [max(each) for each in readings]
    limit = NOISE_LIMIT * statistics.median(slowest)
    return [number for number, took in enumerate(slowest) if took <= limit]


def timed(
    run: Callable[[], object],
    calls: int,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Run something untimed for a while, at least once, and then return the median of some calls.

    Args:
        run: What is timed.
        calls: Timed calls, at least 1.
        settle_s: Seconds of untimed calls; the call during which they pass is the last.
        clock: Returns seconds.
    """
    start = clock()
    run()
    while clock() - start < settle_s:
        run()
    times = []
    for _ in range(calls):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times)
