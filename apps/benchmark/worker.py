"""A process that opens one thing and runs it when told to. Free of torch.

Its argument is one JSON object (see ``processes.Worker``). Answers are lines of JSON; the
first comes after the first image was answered.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...heads.trust import trusting
from .loader import Opening, Run, open_side
from .processes import timed


class Commands:
    """What a process can be told to do.

    Args:
        run: What it runs.
        image: (H, W, 3) uint8.
    """

    def __init__(self, run: Run, image: np.ndarray) -> None:
        self._run = run
        self._image = image
        self._batches: dict[int, np.ndarray] = {}

    def answer(self, batch: int) -> None:
        """Run once on so many images."""
        self._run(self._images(batch))

    def time(self, batch: int, calls: int, settle_s: float) -> float:
        """Seconds of a call; see ``timed``."""
        images = self._images(batch)
        return timed(lambda: self._run(images), calls, settle_s)

    def memory(self) -> int:
        """The most bytes that this process has had in memory so far."""
        return peak_memory()

    def _images(self, batch: int) -> np.ndarray:
        if batch not in self._batches:
            self._batches[batch] = np.stack([self._image] * batch)
        return self._batches[batch]


def peak_memory() -> int:
    """The most bytes that this process has had in memory so far."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux includes the process that started this one
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(commands: Any, requests: Any, reply: Callable[[dict[str, Any]], None]) -> None:
    """Answer lines ``{"do": name, ...}`` until there are no more; failures are answers, too."""
    for line in requests:
        request = json.loads(line)
        try:
            reply({"value": getattr(commands, request.pop("do"))(**request)})
        except Exception as error:  # each runtime has its own kinds; the caller says what it means
            reply({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Open what the first argument says, answer one image, then do as told."""
    # Libraries may print; their lines must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")

    spec = json.loads(sys.argv[1])
    try:
        with trusting(spec["trusted"]):
            run = open_side(Opening(*spec["opening"]), spec["threads"])
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    image = np.load(spec["picture"])
    commands = Commands(run, image)
    try:
        commands.answer(1)
    except Exception as error:
        height, width = image.shape[:2]
        said = f"{type(error).__name__} at an image of {height}x{width} px: {error}".rstrip(" .")
        reply({"error": f"{said}. A file that takes one size alone needs it as --picture-size."})
        return
    reply({"value": None})
    serve(commands, sys.stdin, reply)


if __name__ == "__main__":
    main()
