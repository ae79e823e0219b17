"""Measurement of all sides, in processes that take turns."""

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...datasets.errors import DataError
from . import loader
from .backends import CEILING_PRECISION, Side
from .loader import Opening
from .processes import Rounds, Turn, Worker, take_turns

LATENCY, THROUGHPUT, NETWORK = "latency", "throughput", "network"
WARM_UP = 2
_MEMORY_CALLS = 10
_PRODUCTS = 5
"""Timed matrix products of each runtime; the fastest runtime becomes the reference kernel."""
Name = tuple[int, str]
"""Number of a side, and ``LATENCY``, ``THROUGHPUT`` or ``NETWORK``."""


@dataclass(frozen=True)
class Settings:
    """The options of a benchmark.

    Attributes:
        threads: Threads of each side.
        rounds: Rounds in which each side has a turn.
        calls: Timed calls of a turn, of which the median counts.
        batch: Images in a batch for the throughput.
        starts: Processes of each side for its memory and its cold start.
    """

    threads: int
    rounds: int = 30
    calls: int = 5
    batch: int = 16
    starts: int = 5

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "calls", "batch", "starts"):
            if getattr(self, name) < 1:
                raise DataError(f"--{name} {getattr(self, name)}: must be at least 1")

    def steps(self, sides: Sequence[Side]) -> int:
        """Return the number of steps of the progress bar."""
        turns = sum(2 if side.network is None else 3 for side in sides)
        return (self.starts + 1) * len(sides) + (self.rounds + WARM_UP) * turns


class Start(NamedTuple):
    """Measurements of processes that only run one side."""

    cold_start_s: float
    """Median time from the start of a process to its first output."""
    peak_bytes: int
    """Largest peak memory of a process."""


class Figures(NamedTuple):
    """The measurements of a side."""

    side: Side
    start: Start
    latency_s: float
    """Median for one image."""
    latency_quartiles_s: tuple[float, float]
    """First and third quartile."""
    pictures_per_s: float | None
    """Throughput in batches; None if the side takes no batches of this size."""
    network_s: float | None
    """Median of the network alone for one image; None if it cannot be separated."""
    share: float | None
    """Share of the matrix ceiling that the network reaches; None if it is not measured alone or not
    in float32."""
    faster: dict[str, float]
    """Title of a compared side -> how many times longer that takes."""


class Measured(NamedTuple):
    """The measurements of a benchmark."""

    figures: list[Figures]
    """In the order of the sides."""
    ceiling: float
    """Multiplications and additions of the reference kernel per second."""
    products: dict[str, float]
    """Runtime -> the same for its product before the rounds, fastest first; the first is the
    reference kernel."""
    rounds: Rounds[Name]
    """Times of the turns."""


def measure(
    sides: Sequence[Side],
    peers: Sequence[Side],
    image: np.ndarray,
    settings: Settings,
    folder: Path,
    advance: Callable[[], object],
) -> Measured:
    """Measure all sides, each in its own process, in turns.

    They are compared with the peers, or with the first side if there are none. The image is
    (H, W, 3) uint8; ``advance`` is called after each step, see ``Settings.steps``.

    Raises:
        DataError: A side cannot be run.
    """
    everyone = [*sides, *peers]
    starts = _starts(everyone, image, settings, folder, advance)
    with ExitStack() as stack:

        def start(opening: Opening, size_hw: tuple[int, int] | None = None) -> Worker:
            path = write_image(image, folder, size_hw)
            worker = stack.enter_context(Worker(opening, path, settings.threads, folder))
            worker.wait_until_ready()
            return worker

        products = products_of(folder, image, settings.threads)
        reference = start(Opening("gemm", next(iter(products))))
        turns: dict[Name, Turn] = {}
        for number, side in enumerate(everyone):
            turns |= _turns(number, side, start, settings)
        rounds = take_turns(turns, lambda: reference.time(1, 1), settings.rounds, WARM_UP, advance)
    ceiling = loader.FLOPS / rounds.reference()
    compared = list(range(len(sides), len(everyone))) if peers else [0]
    figures = [
        figures_of(number, everyone, started, rounds, ceiling, settings.batch, compared)
        for number, started in enumerate(starts)
    ]
    return Measured(figures, ceiling, products, rounds)


def products_of(folder: Path, image: np.ndarray, threads: int) -> dict[str, float]:
    """Multiply large float32 matrices in every installed runtime, in turns.

    Returns:
        Runtime -> multiplications and additions per second, fastest first.
    """
    path = write_image(image, folder)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in loader.installed():
            worker = Worker(Opening("gemm", name), path, threads, folder)
            workers[name] = stack.enter_context(worker)
            worker.wait_until_ready()
        took = dict.fromkeys(workers, math.inf)
        for _ in range(_PRODUCTS):
            for name, worker in workers.items():
                took[name] = min(took[name], worker.time(1, 1))
    return {name: loader.FLOPS / took[name] for name in sorted(took, key=lambda name: took[name])}


def write_image(image: np.ndarray, folder: Path, size_hw: tuple[int, int] | None = None) -> Path:
    """Write an image (H, W, 3) uint8 as ``.npy``, resized if a size is given."""
    if size_hw is not None:
        image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)
    path = folder / f"picture_{image.shape[0]}x{image.shape[1]}.npy"
    np.save(path, image)
    return path


def _starts(
    sides: Sequence[Side],
    image: np.ndarray,
    settings: Settings,
    folder: Path,
    advance: Callable[[], object],
) -> list[Start]:
    """Start processes of each side in turn; the first of each only fills caches."""
    seconds: list[list[float]] = [[] for _ in sides]
    peaks: list[list[int]] = [[] for _ in sides]
    for number in range(settings.starts + 1):
        for index, side in enumerate(sides):
            path = write_image(image, folder, side.whole_hw)
            with Worker(side.whole, path, settings.threads, folder) as worker:
                took = worker.wait_until_ready()
                for _ in range(_MEMORY_CALLS):
                    worker.run(1)
                if number:
                    seconds[index].append(took)
                    peaks[index].append(worker.peak_memory())
            advance()
    return [Start(statistics.median(seconds[n]), max(peaks[n])) for n in range(len(sides))]


def _turns(
    number: int,
    side: Side,
    start: Callable[[Opening, tuple[int, int] | None], Worker],
    settings: Settings,
) -> dict[Name, Turn]:
    whole = start(side.whole, side.whole_hw)
    turns: dict[Name, Turn] = {(number, LATENCY): lambda: whole.time(1, settings.calls)}
    try:
        whole.run(settings.batch)
        turns[number, THROUGHPUT] = lambda: whole.time(settings.batch, 1)
    except DataError:
        pass  # the file has another fixed batch size
    if side.network is not None:
        network = start(side.network, side.network_hw)
        turns[number, NETWORK] = lambda: network.time(1, settings.calls)
    return turns


def figures_of(
    number: int,
    sides: Sequence[Side],
    start: Start,
    rounds: Rounds[Name],
    ceiling: float,
    batch: int,
    compared: Sequence[int],
) -> Figures:
    """Compute the figures of a side from the times of the turns.

    The ceiling is in multiplications and additions per second; ``compared`` are the numbers of the
    sides to compare with.
    """
    side = sides[number]
    many, alone = (number, THROUGHPUT), (number, NETWORK)
    network_s = rounds.median(alone) if alone in rounds.seconds else None
    share = None
    if network_s is not None and side.mult_adds is not None and side.precision == CEILING_PRECISION:
        share = 2 * side.mult_adds / network_s / ceiling
    return Figures(
        side,
        start,
        rounds.median((number, LATENCY)),
        rounds.quartiles((number, LATENCY)),
        batch / rounds.median(many) if many in rounds.seconds else None,
        network_s,
        share,
        {sides[n].title: rounds.ratio((n, LATENCY), (number, LATENCY)) for n in compared},
    )
