"""Each side in a process of its own: started, told to run, asked for its memory. Free of torch."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from ...datasets.errors import DataError
from ...heads.trust import trusted
from .loader import Opening

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


_MODULE = f"{__package__}.worker"
_LAST_WORDS = 400


class Worker:
    """A process that runs one thing. Others are not disturbed by its threads or its memory.

    Args:
        opening: What it runs.
        image: ``.npy`` file with an image (H, W, 3) uint8.
        threads: Threads that it may use.
        folder: Where its messages go.
    """

    def __init__(self, opening: Opening, image: Path, threads: int, folder: Path) -> None:
        self._opening = opening
        self._log = (folder / f"{opening.opener}_{time.monotonic_ns()}.log").open("w+b")
        spec = {"opening": opening, "picture": str(image), "threads": threads}
        spec["trusted"] = trusted()
        # -P: names in the folder from which this is called must not hide packages.
        words = [sys.executable, "-P", "-m", _MODULE, json.dumps(spec)]
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        streams = (self._process.stdin, self._process.stdout)
        if error is not None:
            self._process.kill()
        for stream in streams:
            assert stream is not None
            stream.close()
        self._process.wait()
        self._log.close()

    def wait_for_answer(self) -> float:
        """Wait for the first answer; seconds from the start of the process to it.

        Raises:
            DataError: It cannot be opened or run; the message says why.
        """
        self._read()
        return time.monotonic() - self._start

    def answer(self, batch: int) -> None:
        """Run once on so many images.

        Raises:
            DataError: It cannot; the process goes on.
        """
        self._ask(do="answer", batch=batch)

    def time(self, batch: int, calls: int) -> float:
        """Seconds of a call with so many images; see ``protocol.timed``.

        Raises:
            DataError: As for ``answer``.
        """
        return self._ask(do="time", batch=batch, calls=calls, settle_s=SETTLE_S)

    def peak_memory(self) -> int:
        """The most bytes that the process has had in memory so far."""
        return self._ask(do="memory")

    def _ask(self, **request: Any) -> Any:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and reading says why
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip()[-_LAST_WORDS:]
            raise DataError(f"{self._opening.source}: its process ended ({status}): {words}")
        answer = json.loads(line)
        if "error" in answer:
            raise DataError(f"{self._opening.source}: {answer['error']}")
        return answer["value"]
