"""Sweeps: a configuration trained, measured and counted at several widths and resolutions."""

import copy
import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically, write_csv
from ...heads.classification.task import ClassificationTask
from ..costs.networks import cost_of, entry, read_config
from ..costs.tradeoff import write_tradeoff
from .runs import last_version

RECORD = "run.json"
LOG = "log.txt"

_PROGRAM = ("-m", f"{__name__.rsplit('.', 2)[0]}.cli")  # apps/cli.py
_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 20.0
"""Time that an interrupted process has to end by itself."""
_TAIL_LINES = 12


class Run(NamedTuple):
    """A training."""

    name: str
    """Name in progress and messages."""
    args: tuple[str, ...]
    """Arguments of ``lightning``, such as ``("fit", "-c", "configs/quickstart.yaml")``, without
    ``--trainer.default_root_dir``."""
    directory: Path
    """Its root directory, which no other run may use."""


class Outcome(NamedTuple):
    """The result of a run."""

    run: Run
    succeeded: bool
    """Whether its process ended with status 0, now or earlier."""
    skipped: bool
    """Whether it had been finished before."""
    seconds: float
    """Wall-clock time of its processes over all starts, including start-up and evaluation."""
    message: str
    """The end of the log if it failed, else empty."""

    @property
    def version(self) -> Path | None:
        """The newest ``version_N`` of the run, which has its results; None if there is none."""
        return last_version(self.run.directory)


class _Record(NamedTuple):
    """The content of ``run.json``."""

    args: list[str]
    configs: dict[str, str]
    """SHA-256 of each configuration file."""
    seconds: float = 0.0
    finished: bool = False


def run_grid(runs: Sequence[Run], title: str = "runs") -> list[Outcome]:
    """Train all runs, one after the other, even if some of them fail; return their outcomes.

    A run that was finished before with the same options and configuration files is skipped. An
    interrupted run is resumed from its newest ``last.ckpt``, or started again if it has none.
    Progress and the time left are shown on stderr.

    Raises:
        DataError: Two runs share a directory, a configuration file is missing, or a directory
            holds a run with other options that began to train. No run has been started then.
    """
    seen: dict[Path, str] = {}
    for run in runs:
        place = run.directory.resolve()
        if place in seen:
            raise DataError(f"{place}: {seen[place]} and {run.name} want the same directory")
        seen[place] = run.name
    records = [_open(run) for run in runs]
    outcomes: list[Outcome] = []
    # Skipped runs are not counted, as they would make the others look fast.
    todo = sum(not record.finished for record in records)
    with tqdm(total=todo, desc=title, unit="run", smoothing=0, file=sys.stderr) as progress:
        for run, record in zip(runs, records, strict=True):
            if record.finished:
                outcomes.append(Outcome(run, True, True, record.seconds, ""))
                continue
            progress.set_postfix_str(run.name)
            outcome = _train(run, record, progress)
            if not outcome.succeeded:
                progress.write(f"{run.name} failed, see {run.directory / LOG}", file=sys.stderr)
            outcomes.append(outcome)
            progress.update()
    return outcomes


_TRIED_AGAIN = "The same command line tries them again and leaves the finished ones as they are."


def report_failures(outcomes: Sequence[Outcome], remedy: str = _TRIED_AGAIN) -> int:
    """Print the failed runs and the end of their logs to stderr; return their number."""
    failed = [outcome for outcome in outcomes if not outcome.succeeded]
    for outcome in failed:
        text = f"\n{outcome.run.name} failed; its log is {outcome.run.directory / LOG}:"
        print(f"{text}\n{outcome.message}", file=sys.stderr)
    if failed:
        print(f"\n{len(failed)} of {len(outcomes)} runs failed. {remedy}", file=sys.stderr)
    return len(failed)


def _open(run: Run) -> _Record:
    """Return the record of a run, a new one if there is none."""
    wanted = _Record(list(run.args), _digests(run.args))
    path = run.directory / RECORD
    try:
        found = _Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return wanted
    except (TypeError, ValueError) as error:
        what = f"not a record of a run ({error}); remove {run.directory}"
        raise DataError(f"{path}: {what}") from error
    if (found.args, found.configs) != (wanted.args, wanted.configs):
        if not found.finished and not _has_checkpoint(run):
            return wanted  # it never began to train, so its options may have been corrected
        raise DataError(
            f"{run.directory}: holds a run with other options or another configuration file "
            f"({' '.join(found.args)}). Remove it or name another folder for the results."
        )
    return found


def _digests(args: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the files after ``-c``, ``--config`` and ``--config=``."""
    names = [args[i + 1] for i, word in enumerate(args[:-1]) if word in {"-c", "--config"}]
    names += [word.partition("=")[2] for word in args if word.startswith("--config=")]
    try:
        return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; name a configuration file") from error


def _train(run: Run, record: _Record, progress: tqdm) -> Outcome:
    """Run the process of a run to its end, keeping its record up to date."""
    args = [*run.args, f"--trainer.default_root_dir={run.directory}"]
    if _has_checkpoint(run):
        args.append("--ckpt_path=last")
    run.directory.mkdir(parents=True, exist_ok=True)
    before, start = record.seconds, time.monotonic()
    with (run.directory / LOG).open("ab") as log, _process(args, log.fileno()) as process:
        status = None
        while status is None:
            record = record._replace(seconds=before + time.monotonic() - start)
            _write(run, record)
            progress.refresh()
            try:
                status = process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    seconds = before + time.monotonic() - start
    _write(run, record._replace(seconds=seconds, finished=status == 0))
    message = "" if status == 0 else f"{_tail(run.directory / LOG)}\n(exit status {status})"
    return Outcome(run, status == 0, False, seconds, message)


def _has_checkpoint(run: Run) -> bool:
    return any(run.directory.glob("version_*/checkpoints/last.ckpt"))


@contextmanager
def _process(args: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process of a training, and end it if the body raises, such as on Ctrl-C."""
    command = [sys.executable, *_PROGRAM, *args]
    nothing, both = subprocess.DEVNULL, subprocess.STDOUT
    process = subprocess.Popen(command, stdin=nothing, stdout=log, stderr=both)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _write(run: Run, record: _Record) -> None:
    text = json.dumps(record._asdict(), indent=1)
    write_atomically(run.directory / RECORD, f"{text}\n".encode())


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])


RESULTS_FILE = "results.csv"
FIGURE_FILE = "tradeoff.png"


class Point(NamedTuple):
    """A trained network of a sweep, which is a row of ``results.csv``."""

    width_mult: float
    resolution: int
    """Side of the image in px."""
    mult_adds: int
    """For one image."""
    params: int
    top1: float
    top5: float
    run: str
    """Directory of the run."""


def sweep(
    config: Path,
    width_mults: Sequence[float],
    resolutions: Sequence[int],
    out: Path,
    overrides: Sequence[str] = (),
) -> tuple[list[Point], int]:
    """Train a configuration at each width and resolution; finished runs are not repeated.

    Each run has a directory below ``out`` with its configuration. At the end there are
    ``results.csv`` and ``tradeoff.png``. The overrides are options of ``lightning fit``.

    Returns:
        The results by rising cost, and the number of failed runs, which are reported on stderr.

    Raises:
        DataError: The configuration cannot be read, or has no ``width_mult`` or ``size_hw``.
    """
    settings = read_config(config)
    grid = list(itertools.product(width_mults, resolutions))
    runs: list[Run] = []
    for width_mult, resolution in grid:
        name = f"w{width_mult:g}_r{resolution}"
        path = out / name / "sweep.yaml"
        changed = changed_settings(settings, width_mult, resolution, config)
        text = yaml.safe_dump(changed, sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != text:
            write_atomically(path, text)
        runs.append(Run(name, ("fit", "-c", str(path), *overrides), out / name))
    outcomes = run_grid(runs, "sweep")
    points = [_point(*each, done) for each, done in zip(grid, outcomes, strict=True)
              if done.succeeded]  # fmt: skip
    points.sort(key=lambda point: point.mult_adds)
    if points:
        with replaced_atomically(out / RESULTS_FILE) as temporary:
            write_csv(temporary, Point._fields, points)
        write_tradeoff(out / RESULTS_FILE, out / FIGURE_FILE, "top1")
    return points, report_failures(outcomes)


def changed_settings(
    settings: dict[str, Any], width_mult: float, resolution: int, source: Path
) -> dict[str, Any]:
    """Return a copy with another width of the network and another size of the images.

    Every ``width_mult`` of the network and every ``size_hw`` of the data is set, including those of
    transforms.

    Raises:
        DataError: The network has no ``width_mult``, or the data no ``size_hw``.
    """
    changed = copy.deepcopy(settings)
    widths = _set_all(entry(changed, "model", "init_args", "network"), "width_mult", width_mult)
    sizes = _set_all(entry(changed, "data"), "size_hw", [resolution, resolution])
    for name, count, where in (("width_mult", widths, "model"), ("size_hw", sizes, "data")):
        if not count:
            raise DataError(f"{source}: no {name} is written under {where}, so it cannot be varied")
    return changed


def _set_all(settings: Any, name: str, value: Any) -> int:
    """Set a key wherever it occurs below ``settings``; return the number of times."""
    if isinstance(settings, list):
        return sum(_set_all(each, name, value) for each in settings)
    if not isinstance(settings, dict):
        return 0
    count = int(name in settings)
    if count:
        settings[name] = value
    return count + sum(_set_all(v, name, value) for k, v in settings.items() if k != name)


def _point(width_mult: float, resolution: int, outcome: Outcome) -> Point:
    version = outcome.version
    measured = (version or outcome.run.directory) / ClassificationTask.metrics_file
    checkpoint = measured.parent / "checkpoints" / "last.ckpt"
    for path in (measured, checkpoint):
        if not path.is_file():
            raise DataError(
                f"{path}: the run {outcome.run.name} left none. A sweep needs a classifier that "
                "validates, and a ModelCheckpoint that keeps last.ckpt."
            )
    top = json.loads(measured.read_text())
    cost = cost_of(None, checkpoint, size_hw=(resolution, resolution))[2]
    counts, run = (cost.mult_adds, cost.params), str(measured.parent)
    return Point(width_mult, resolution, *counts, top["top1"], top["top5"], run)


def format_points(points: Sequence[Point]) -> str:
    """Format the results as a table, at most 80 characters wide except for long names of runs."""
    lines = ["width  resolution  mult-adds (M)  params (M)   top-1   top-5  run"]
    lines += [
        f"{point.width_mult:>5g}  {point.resolution:>10}  {point.mult_adds / 1e6:>13.2f}  "
        f"{point.params / 1e6:>10.3f}  {point.top1:.4f}  {point.top5:.4f}  {point.run}"
        for point in points
    ]
    return "\n".join(lines)
