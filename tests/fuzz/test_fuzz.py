"""Damaged files of every kind are read, or refused by a named error; nothing else happens.

``make fuzz`` runs more inputs (``FUZZ_INPUTS``) than the suite. A failure names its kind and its
number: ``FUZZ_FIRST=number FUZZ_INPUTS=1 pytest tests/fuzz -k kind`` repeats it. What kills the
process outright leaves the file and ``input.txt`` in pytest's temporary folder.
"""

import contextlib
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError

from .kinds import KINDS
from .mutations import damage

INPUTS = int(os.environ.get("FUZZ_INPUTS", "600"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
MOST_BYTES = 512 * 2**20
"""More than this for one of these small files is absurd."""
LIMIT_BYTES = 4 * 2**30
STUCK_SECONDS = 60


class StuckError(BaseException):
    """A reader does not end."""


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """What asks for memory without end gets a MemoryError, and what does not end is ended."""

    def stuck(*_: object) -> None:
        raise StuckError

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + LIMIT_BYTES, before[1]))
    handler = signal.signal(signal.SIGALRM, stuck)
    yield
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def memory(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def problem(read: Callable[[Path], object], folder: Path) -> str:
    """What a reader does that it must not; empty where it reads, or refuses by name."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    signal.alarm(STUCK_SECONDS)
    try:
        read(folder)
    except (DataError, WeightsError) as error:
        if str(folder) not in str(error):
            return f"an error that names no file: {error}"
    except (Exception, StuckError) as error:
        return "".join(traceback.format_exception(error, limit=-4))
    finally:
        signal.alarm(0)
    used = memory("VmHWM") - before
    return f"took {used:,} bytes" if used > MOST_BYTES else ""


def written(name: str, folder: Path) -> dict[Path, bytes]:
    """Write the valid files of a kind; returns those to damage."""
    kind = KINDS[name]
    folder.mkdir()
    kind.write(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path: path.read_bytes()
        for path in files
        if not kind.spared or kind.spared not in path.relative_to(folder).as_posix()
    }


@pytest.mark.parametrize("name", KINDS)
def test_readers__damaged_files__read_or_refuse_by_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    whole = written(name, folder)
    for read in KINDS[name].read:
        read(folder)  # whole files are read, so that damage is all that is refused
    found: dict[str, str] = {}
    count = -(-INPUTS // len(KINDS))
    for number in range(FIRST, FIRST + count):
        rng = np.random.default_rng((number, crc32(name.encode())))
        path = list(whole)[rng.integers(len(whole))]
        done = damage(whole[path], rng)
        path.write_bytes(done.content)
        what = f"{name}, input {number}: {path.name}: {done.how}"
        (tmp_path / "input.txt").write_text(what)
        for read in KINDS[name].read:
            fault = problem(read, folder)
            if fault:
                place, _, message = fault.rstrip().rpartition("\n")  # once for each place in code
                found.setdefault(place or message[:30], f"{what}\n{fault}")
        path.write_bytes(whole[path])
    print(f"{name}: {count:,} inputs")
    assert not found, "\n\n".join(found.values())
