"""The process that opens a model and runs it on request; does not import torch.

Its argument is a JSON object (see ``processes.Worker``). Requests and replies are lines of JSON;
the first reply is sent after the first image.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...heads.trust import trusting
from .loader import Opening, Run, open_side
from .processes import timed


class Commands:
    """The requests to a process with a model and an image (H, W, 3) uint8."""

    def __init__(self, run: Run, image: np.ndarray) -> None:
        self._run = run
        self._images = cache(lambda batch: np.stack([image] * batch))

    def run(self, batch: int) -> None:
        """Run once on a batch of images."""
        self._run(self._images(batch))

    def time(self, batch: int, calls: int, settle_s: float) -> float:
        """Return the seconds of a call; see ``timed``."""
        images = self._images(batch)
        return timed(lambda: self._run(images), calls, settle_s)

    def memory(self) -> int:
        """Return the peak memory of this process in bytes."""
        return peak_memory()


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage on Linux includes the process that started this one
        (line,) = (
            each for each in status.read_text("utf-8").splitlines() if each.startswith("VmHWM:")
        )
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _peak_working_set()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_working_set() -> int:
    """Return the peak memory of this process in bytes on 64-bit Windows."""
    # PROCESS_MEMORY_COUNTERS: two numbers of 4 bytes, the peak, and seven further sizes.
    counters = (ctypes.c_uint64 * 9)()
    library = ctypes.CDLL("kernel32")
    library.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, ctypes.sizeof(counters))
    return counters[1]


def serve(commands: Any, requests: Any, reply: Callable[[dict[str, Any]], None]) -> None:
    """Reply to lines ``{"do": name, ...}`` until there are no more, also to those that fail."""
    for line in requests:
        request = json.loads(line)
        try:
            reply({"value": getattr(commands, request.pop("do"))(**request)})
        except Exception as error:  # each runtime has its own kinds
            reply({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Open the model of the first argument, run it on an image, then serve requests."""
    # Libraries may print, which must not get between the replies: print to stderr instead.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(content: dict[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")

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
        commands.run(1)
    except Exception as error:
        height, width = image.shape[:2]
        what = f"{type(error).__name__} at an image of {height}x{width} px: {error}".rstrip(" .")
        reply({"error": f"{what}. A file with a fixed size needs that as --picture-size."})
        return
    reply({"value": None})
    serve(commands, sys.stdin, reply)


if __name__ == "__main__":
    main()
