"""Widths and resolutions of one configuration: trained, measured, counted, drawn."""

import csv
import hashlib
import io
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
from ...datasets.files import write_atomically
from ...heads.classification.task import ClassificationTask
from ..costs.networks import cost_of
from ..costs.tradeoff import write_tradeoff

RECORD = "run.json"
LOG = "log.txt"

_PROGRAM = ("-m", f"{__name__.rsplit('.', 2)[0]}.cli")  # apps/cli.py
_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 20.0
"""What an interrupted process gets to end by itself."""
_TAIL_LINES = 12


class Run(NamedTuple):
    """One training."""

    name: str
    """For progress and messages."""
    args: tuple[str, ...]
    """Words of ``lightning``, such as ``("fit", "-c", "configs/quickstart.yaml")``, without
    ``--trainer.default_root_dir``."""
    directory: Path
    """Its root directory, which no other run may have."""


class Outcome(NamedTuple):
    """How a run ended."""

    run: Run
    succeeded: bool
    """Whether its process ended with status 0, now or at an earlier time."""
    skipped: bool
    """Whether it had been finished before."""
    seconds: float
    """Wall-clock time of its processes over all starts, that of Python and evaluation included."""
    message: str
    """The end of the log where it failed, else empty."""

    @property
    def version(self) -> Path | None:
        """The newest ``version_N`` of the run, where its results are; None where there is none."""
        return _newest_version(self.run.directory)


class _Record(NamedTuple):
    """What ``run.json`` holds."""

    args: list[str]
    configs: dict[str, str]
    """SHA-256 of each configuration file."""
    seconds: float = 0.0
    finished: bool = False


def run_grid(runs: Sequence[Run], title: str = "runs") -> list[Outcome]:
    """Do all runs, one after the other; a run that fails does not keep the next from starting.

    A run that was finished before with the same options and configuration files is skipped. One
    that was interrupted goes on from its newest ``last.ckpt`` where it left one, else it starts
    anew. Progress and the time left are shown on stderr.

    Args:
        runs: What to do, in this order.
        title: What the progress bar is called.

    Returns:
        One outcome for each run, in the order of the runs.

    Raises:
        DataError: Two runs share a directory, a configuration file is missing, or a directory
            holds a run with other options that began to train. Nothing has been started then.
    """
    _check_directories(runs)
    records = [_open(run) for run in runs]
    outcomes: list[Outcome] = []
    # Skipped runs must not make the others look fast: only what is to do is counted.
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


def report_failures(outcomes: Sequence[Outcome]) -> int:
    """Print on stderr which runs failed, and the end of their logs.

    Returns:
        The number of failed runs.
    """
    failed = [outcome for outcome in outcomes if not outcome.succeeded]
    for outcome in failed:
        text = f"\n{outcome.run.name} failed; its log is {outcome.run.directory / LOG}:"
        print(f"{text}\n{outcome.message}", file=sys.stderr)
    if failed:
        print(
            f"\n{len(failed)} of {len(outcomes)} runs failed. The same command line tries them "
            "again and leaves the finished ones as they are.",
            file=sys.stderr,
        )
    return len(failed)


def _check_directories(runs: Sequence[Run]) -> None:
    seen: dict[Path, str] = {}
    for run in runs:
        place = run.directory.resolve()
        if place in seen:
            raise DataError(f"{place}: {seen[place]} and {run.name} want the same directory")
        seen[place] = run.name


def _open(run: Run) -> _Record:
    """The record of a run, new where there is none."""
    wanted = _Record(list(run.args), _digests(run.args))
    path = run.directory / RECORD
    try:
        found = _Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return wanted
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a record of a run ({error}); remove {run.directory}"
        ) from error
    if (found.args, found.configs) != (wanted.args, wanted.configs):
        if not found.finished and not _has_checkpoint(run):
            return wanted  # it never came to train: whoever mended its options may go on
        raise DataError(
            f"{run.directory}: holds a run with other options or another configuration file "
            f"({' '.join(found.args)}). Remove it or name another folder for the results."
        )
    return found


def _digests(args: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the files after ``-c``, ``--config`` and ``--config=``."""
    names = [args[i + 1] for i, word in enumerate(args[:-1]) if word in {"-c", "--config"}]
    names += [word.partition("=")[2] for word in args if word.startswith("--config=")]
    try:
        return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; name a configuration file") from error


def _train(run: Run, record: _Record, progress: tqdm) -> Outcome:
    """Run the process of one run to its end and keep its record up to date meanwhile."""
    words = [*run.args, f"--trainer.default_root_dir={run.directory}"]
    if _has_checkpoint(run):
        words.append("--ckpt_path=last")
    run.directory.mkdir(parents=True, exist_ok=True)
    before, start = record.seconds, time.monotonic()
    with (run.directory / LOG).open("ab") as log, _process(words, log.fileno()) as process:
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
def _process(words: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """The training's process; it does not outlive an exception of ours, such as Ctrl-C."""
    command = [sys.executable, *_PROGRAM, *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )
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
    lines = path.read_text(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])


def _newest_version(directory: Path) -> Path | None:
    found = [path for path in directory.glob("version_*") if path.name[8:].isdecimal()]
    return max(found, key=lambda path: int(path.name[8:]), default=None)


RESULTS_FILE = "results.csv"
FIGURE_FILE = "tradeoff.png"


class Point(NamedTuple):
    """One trained network of a sweep: a row of ``results.csv``."""

    width_mult: float
    resolution: int
    """Side of the image in px."""
    mult_adds: int
    """For one image."""
    params: int
    top1: float
    top5: float
    run: str
    """The run's own directory."""


def sweep(
    config: Path,
    width_mults: Sequence[float],
    resolutions: Sequence[int],
    out: Path,
    overrides: Sequence[str] = (),
) -> tuple[list[Point], int]:
    """Train a configuration at each width and resolution; finished runs are not repeated.

    Each run has a directory below ``out`` with the configuration that it got. At the end there are
    ``results.csv`` and, from two results on, ``tradeoff.png``.

    Args:
        config: A YAML whose backbone has a ``width_mult`` and whose data a ``size_hw``.
        width_mults: Width multipliers.
        resolutions: Sides of square images in px.
        out: Folder for everything.
        overrides: Further options of ``lightning fit``.

    Returns:
        The results by rising cost, and the number of runs that failed; these are reported on
        stderr.

    Raises:
        DataError: The configuration cannot be read or has no such options.
    """
    settings = _read(config)
    runs: list[Run] = []
    for width_mult, resolution in itertools.product(width_mults, resolutions):
        name = f"w{width_mult:g}_r{resolution}"
        path = out / name / "sweep.yaml"
        changed = changed_settings(settings, width_mult, resolution, config)
        text = yaml.safe_dump(changed, sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != text:
            write_atomically(path, text)
        runs.append(Run(name, ("fit", "-c", str(path), *overrides), out / name))
    outcomes = run_grid(runs, "sweep")
    grid = list(itertools.product(width_mults, resolutions))
    points = [_point(*each, done) for each, done in zip(grid, outcomes, strict=True)
              if done.succeeded]  # fmt: skip
    points.sort(key=lambda point: point.mult_adds)
    if points:
        write_atomically(out / RESULTS_FILE, _to_csv(points).encode())
        write_tradeoff(out / RESULTS_FILE, out / FIGURE_FILE, "top1")
    return points, report_failures(outcomes)


def changed_settings(
    settings: dict[str, Any], width_mult: float, resolution: int, source: Path
) -> dict[str, Any]:
    """A copy with another width of the network and another size of the images.

    Every ``width_mult`` of the network and every ``size_hw`` of the data is set, those of
    transforms as well.

    Raises:
        DataError: There is none of one of them.
    """
    changed = yaml.safe_load(yaml.safe_dump(settings))
    widths = _set_all(_at(changed, "model", "init_args", "network"), "width_mult", width_mult)
    sizes = _set_all(_at(changed, "data"), "size_hw", [resolution, resolution])
    for name, count, where in (("width_mult", widths, "model"), ("size_hw", sizes, "data")):
        if not count:
            raise DataError(f"{source}: no {name} is written under {where}, so it cannot be varied")
    return changed


def _set_all(settings: Any, name: str, value: Any) -> int:
    """Set a key wherever it occurs below ``settings``; how often that was."""
    if isinstance(settings, list):
        return sum(_set_all(each, name, value) for each in settings)
    if not isinstance(settings, dict):
        return 0
    count = int(name in settings)
    if count:
        settings[name] = value
    return count + sum(_set_all(v, name, value) for k, v in settings.items() if k != name)


def _at(settings: Any, *path: str) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path}: not a configuration (a YAML with model and data)")
    return settings


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
    content = json.loads(measured.read_text())
    cost = cost_of(None, checkpoint, size_hw=(resolution, resolution))[2]
    return Point(
        width_mult,
        resolution,
        cost.mult_adds,
        cost.params,
        content["top1"],
        content["top5"],
        str(measured.parent),
    )


def _to_csv(points: Sequence[Point]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows(points)
    return text.getvalue()


def format_points(points: Sequence[Point]) -> str:
    """A table in plain text, at most 80 characters a line but for long names of runs."""
    lines = ["width  resolution  mult-adds (M)  params (M)   top-1   top-5  run"]
    lines += [
        f"{point.width_mult:>5g}  {point.resolution:>10}  {point.mult_adds / 1e6:>13.2f}  "
        f"{point.params / 1e6:>10.3f}  {point.top1:.4f}  {point.top5:.4f}  {point.run}"
        for point in points
    ]
    return "\n".join(lines)
