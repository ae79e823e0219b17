"""Each side in a process of its own: started, told to run, asked for its memory. Free of torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ...datasets.errors import DataError
from ...heads.trust import trusted
from .opening import Opening
from .protocol import SETTLE_S

_MODULE = f"{__package__}.worker"
_LAST_WORDS = 400


class Worker:
    """A process that runs one thing. Others are not disturbed by its threads or its memory.

    Args:
        opening: What it runs.
        picture: ``.npy`` file with a picture (H, W, 3) uint8.
        threads: Threads that it may use.
        folder: Where its messages go.
    """

    def __init__(self, opening: Opening, picture: Path, threads: int, folder: Path) -> None:
        self._opening = opening
        self._log = (folder / f"{opening.opener}_{time.monotonic_ns()}.log").open("w+b")
        spec = {"opening": opening, "picture": str(picture), "threads": threads}
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
        """Run once on so many pictures.

        Raises:
            DataError: It cannot; the process goes on.
        """
        self._ask(do="answer", batch=batch)

    def time(self, batch: int, calls: int) -> float:
        """Seconds of a call with so many pictures; see ``protocol.timed``.

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
