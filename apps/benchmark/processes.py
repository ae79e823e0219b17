"""Turns and rounds of a benchmark, and the process of each side; does not import torch."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ...datasets.errors import DataError
from ...heads.trust import trusted
from .loader import Opening

NOISE_LIMIT = 1.15
"""Multiple of the reference's median above which a round is dropped."""
RULE = (
    f"a round is dropped where the slowest run of the reference kernel took more than {NOISE_LIMIT}"
    " times the median of those of all rounds"
)
SETTLE_S = 0.02
"""Untimed seconds at the start of a turn, in which threads of the side before still spin."""

Name = TypeVar("Name", bound=Hashable)
Turn = Callable[[], float]
"""Runs a side and returns the seconds of one call."""


class Rounds(NamedTuple, Generic[Name]):
    """The times of rounds; statistics are over the rounds that are kept."""

    seconds: dict[Name, list[float]]
    """Of each side in each round, including dropped ones."""
    readings: list[list[float]]
    """Seconds of the runs of the reference kernel in each round."""
    kept: list[int]
    """Numbers of the rounds that are kept."""

    @property
    def dropped(self) -> int:
        """Number of dropped rounds."""
        return len(self.readings) - len(self.kept)

    def of(self, name: Name) -> list[float]:
        """Return the seconds of a side in each kept round."""
        return [self.seconds[name][number] for number in self.kept]

    def reference(self) -> float:
        """Return the median seconds of the reference kernel."""
        return statistics.median(took for number in self.kept for took in self.readings[number])

    def median(self, name: Name) -> float:
        """Return the median seconds of a side."""
        return statistics.median(self.of(name))

    def quartiles(self, name: Name) -> tuple[float, float]:
        """Return the first and third quartile of the seconds of a side."""
        values = self.of(name)
        if len(values) < 2:
            return values[0], values[0]
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        return first, third

    def ratio(self, slow: Name, fast: Name) -> float:
        """Return the median of how many times longer ``slow`` took in the same round."""
        pairs = zip(self.of(slow), self.of(fast), strict=True)
        return statistics.median(first / second for first, second in pairs)


def take_turns(
    turns: Mapping[Name, Turn],
    reference: Turn,
    rounds: int,
    warm_up: int = 2,
    advance: Callable[[], object] = lambda: None,
) -> Rounds[Name]:
    """Give each side a turn in each round, in an order that rotates from round to round.

    ``reference`` is the turn of the reference kernel. The ``rounds``, at least 1, are timed, and
    ``warm_up`` rounds before them are not. ``advance`` is called after each turn.
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


def time_in_turns(
    runs: Mapping[Name, Callable[[], object]], rounds: int, warm_up: int = 2
) -> Rounds[Name]:
    """Time functions of this process in turns, as ``take_turns`` does; every round is kept."""

    def turn(run: Callable[[], object]) -> Turn:
        def seconds() -> float:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        return seconds

    return take_turns({name: turn(run) for name, run in runs.items()}, lambda: 1.0, rounds, warm_up)


def quiet_rounds(readings: list[list[float]]) -> list[int]:
    """Return the numbers of the rounds without noise, judged by the reference's times in each."""
    slowest = [max(each) for each in readings]
    limit = NOISE_LIMIT * statistics.median(slowest)
    return [number for number, took in enumerate(slowest) if took <= limit]


def timed(
    run: Callable[[], object],
    calls: int,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median seconds of at least one call, after untimed calls.

    These take ``settle_s`` seconds or more; there is at least one. The clock returns seconds.
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
_LOG_END = 400


class Worker:
    """A process that runs one model, so that its threads and memory do not affect the others.

    The image is a ``.npy`` file (H, W, 3) uint8; the log of the process is written to the folder.
    """

    def __init__(self, opening: Opening, image: Path, threads: int, folder: Path) -> None:
        self._opening = opening
        self._log = (folder / f"{opening.opener}_{time.monotonic_ns()}.log").open("w+b")
        spec = {"opening": opening, "picture": str(image), "threads": threads}
        spec["trusted"] = trusted()
        # -P: names in the folder from which this is called must not hide packages.
        self._start = time.monotonic()
        words, pipe = [sys.executable, "-P", "-m", _MODULE, json.dumps(spec)], subprocess.PIPE
        own = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=self._log, env=own)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process."""
        if kind is not None:
            self._process.kill()
        with self._process, self._log:  # closes all streams and waits
            pass

    def wait_until_ready(self) -> float:
        """Wait for the first output; return the seconds from the start of the process to it.

        Raises:
            DataError: The model cannot be opened or run.
        """
        self._read()
        return time.monotonic() - self._start

    def run(self, batch: int) -> None:
        """Run once on a batch of images; the process goes on after the DataError of a failure."""
        self._ask(do="run", batch=batch)

    def time(self, batch: int, calls: int) -> float:
        """Return the seconds of a call with a batch of images; see ``timed`` and ``run``."""
        return self._ask(do="time", batch=batch, calls=calls, settle_s=SETTLE_S)

    def peak_memory(self) -> int:
        """Return the peak memory of the process in bytes."""
        return self._ask(do="memory")

    def _ask(self, **request: Any) -> Any:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; _read reports why
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            end = self._log.read().decode(errors="replace").strip()[-_LOG_END:]
            raise DataError(f"{self._opening.source}: its process ended ({status}): {end}")
        reply = json.loads(line)
        if "error" in reply:
            raise DataError(f"{self._opening.source}: {reply['error']}")
        return reply["value"]
