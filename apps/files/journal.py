"""What a long command has done so far, so that it continues where it was stopped. Free of torch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOURNAL_FORMAT = 1


class Journal:
    """A file of JSON lines: what the work is, then an entry for each input that is done.

    Entries are flushed to the disk before `append` returns. A process that is killed while it
    writes leaves at most one line cut short, which the next start drops.

    Args:
        path: The file; made where it is absent.
        work: What the entries depend on, such as the model and the options: plain data. If the
            file is of other work, it is begun anew.

    Attributes:
        begun_anew: Which parts of the work are not those of the file that was there.
    """

    def __init__(self, path: Path, work: dict[str, Any]) -> None:
        self.path = path
        self.begun_anew: list[str] = []
        self._offsets: dict[str, int] = {}
        head = {"journal": JOURNAL_FORMAT, **work}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._resume(head):
            path.write_bytes(_line(head))
        self._file = path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> "Journal":
        """Return the journal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def _resume(self, head: dict[str, Any]) -> bool:
        """Read the entries of the same work; False where there are none to go on from."""
        if not self.path.is_file():
            return False
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                entry = _parsed(line)
                if number == 0 and entry != head:
                    self.begun_anew = _differences(entry or {}, head)
                    return False
                if entry is None or (number and not isinstance(entry.get("key"), str)):
                    break
                if number:
                    self._offsets[entry["key"]] = end
                end += len(line)
        os.truncate(self.path, end)
        return end > 0

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of this key."""
        return key in self._offsets

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._offsets)

    def __getitem__(self, key: str) -> Any:
        """The newest entry of a key, read from the file."""
        with self.path.open("rb") as file:
            file.seek(self._offsets[key])
            return json.loads(file.readline())["entry"]

    def append(self, entries: Sequence[tuple[str, Any]]) -> None:
        """Add entries (key, plain data) and wait until they are on the disk."""
        start = self._file.tell()
        lines = [_line({"key": key, "entry": entry}) for key, entry in entries]
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        for (key, _), line in zip(entries, lines, strict=True):
            self._offsets[key] = start
            start += len(line)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line's content; None for one that is cut short or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [key for key in new if old.get(key) != new[key]]
