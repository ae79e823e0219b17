"""A local server of images, videos and endless streams, and a camera that is none."""

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.batch import videos


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), color).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    folder: Path
    stopped: threading.Event

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name.startswith("live"):
            self._stream()
        elif (self.folder / name).is_file():
            self._file((self.folder / name).read_bytes())
        else:
            self.send_error(404)

    def _file(self, content: bytes) -> None:
        kinds = {b"\x89P": "image/png", b"\0\0": "video/mp4"}
        start = int((re.findall(r"\d+", self.headers.get("Range", "")) or ["0"])[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kinds.get(content[:2], "text/plain"))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self._send(content[start:])

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        number, sent = 0, True
        while sent and not self.stopped.is_set():
            level = np.full((48, 64, 3), 40 + number % 200, np.uint8)
            jpeg = cv2.imencode(".jpg", level)[1].tobytes()
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            sent = self._send(head.encode() + jpeg + b"\r\n")
            number += 1
            time.sleep(0.01)

    def _send(self, content: bytes) -> bool:
        try:
            self.wfile.write(content)
        except OSError:  # the reader has enough
            return False
        return True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder of its files; /live is an endless stream."""
    folder = tmp_path / "server"
    folder.mkdir()
    stopped = threading.Event()
    handler = type("Bound", (Handler,), {"folder": folder, "stopped": stopped})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", folder
    stopped.set()
    http.shutdown()
    thread.join()
    http.server_close()


class Camera:
    """Stands for ``cv2.VideoCapture``: gives some frames of rising brightness, then none."""

    opened: list[object]
    counts: list[int]
    """Number of frames of each opening; when it is empty, the camera is gone."""

    def __init__(self, source: object, *_: object) -> None:
        self.opened.append(source)
        self.left = self.counts.pop(0) if self.counts else -1

    def isOpened(self) -> bool:  # noqa: N802
        return self.left >= 0

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FPS: 20.0}.get(what, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.left <= 0:
            return False, None
        time.sleep(0.02)
        self.left -= 1
        return True, np.full((48, 64, 3), max(0, 200 - 10 * self.left), np.uint8)

    def release(self) -> None:
        """Do nothing."""


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Makes every capture a camera that gives so many frames each time it is opened."""

    def install(*counts: int) -> list[object]:
        opened: list[object] = []
        kind = type("Installed", (Camera,), {"opened": opened, "counts": list(counts)})
        monkeypatch.setattr(videos.cv2, "VideoCapture", kind)
        monkeypatch.setattr(videos, "_WAITS_S", (0.0, 0.0, 0.0))
        return opened

    return install
