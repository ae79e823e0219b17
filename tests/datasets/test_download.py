"""Downloads from a local server that misbehaves on request."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilevision.datasets import download as download_module
from mobilevision.datasets.download import (
    Checksum,
    download,
    format_size,
    made_once,
    require_space,
)
from mobilevision.datasets.errors import DataError

CONTENT = bytes(range(256)) * 12_000
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
MD5 = Checksum("md5", hashlib.md5(CONTENT).hexdigest())


@dataclass
class Behavior:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str = '"one"'
    drop_after: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut, one number for each of the first requests."""
    statuses: list[int] = field(default_factory=list)
    """Refusals, one for each of the first requests."""
    tell_length: bool = True
    wrong_start: bool = False
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behavior: Behavior

    def do_GET(self) -> None:
        server = self.behavior
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        self.close_connection = True
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        same = self.headers.get("If-Range", server.etag) == server.etag
        partial = wanted is not None and server.ranges and same
        if partial and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:] if partial else server.content
        self.send_response(206 if partial else 200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.tell_length:
            self.send_header("Content-Length", str(len(body)))
        if partial:
            first = start + 1 if server.wrong_start else start
            end, total = len(server.content) - 1, len(server.content)
            self.send_header("Content-Range", f"bytes {first}-{end}/{total}")
        self.end_headers()
        self.wfile.write(body[: server.drop_after.pop(0)] if server.drop_after else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, Behavior]]:
    behavior = Behavior()
    handler = type("BoundHandler", (Handler,), {"behavior": behavior})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/file.bin", behavior
    http.shutdown()
    thread.join()
    http.server_close()


Server = tuple[str, Behavior]


def fetch(
    url: str,
    target: Path,
    checksum: Checksum = SHA256,
    size: int | None = len(CONTENT),
    attempts: int = 3,
) -> bool:
    return download(
        url, target, checksum, size=size, attempts=attempts, backoff_s=0.001, progress=False
    )


def names(folder: Path) -> list[str]:
    """Without the file of the lock, which a download that failed leaves."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("checksum", [SHA256, MD5])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_download__plain__writes_the_file_alone(
    server: Server, tmp_path: Path, checksum: Checksum, size: int | None
) -> None:
    url, _ = server
    assert fetch(url, tmp_path / "deep" / "file.bin", checksum, size)
    assert (tmp_path / "deep" / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path / "deep") == ["file.bin"]


def test_download__verified_file_there__asks_nobody(server: Server, tmp_path: Path) -> None:
    url, behavior = server
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert not fetch(url, tmp_path / "file.bin")
    assert behavior.asked == []


def test_download__another_file_there__data_error_and_untouched(
    server: Server, tmp_path: Path
) -> None:
    url, _ = server
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists, but is not the file"):
        fetch(url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_download__connection_drops_twice__goes_on_where_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    behavior.drop_after = [1_000_000, 500_000]
    assert fetch(url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in behavior.asked if asked]
    assert behavior.asked[0] is None
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] <= 1_500_000


def test_download__part_of_an_earlier_run__goes_on_where_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:12_345])
    assert fetch(url, tmp_path / "file.bin")
    assert behavior.asked == ["bytes=12345-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]


def test_download__server_without_ranges__starts_again(server: Server, tmp_path: Path) -> None:
    url, behavior = server
    behavior.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 12_345)
    assert fetch(url, tmp_path / "file.bin")
    assert behavior.asked == ["bytes=12345-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_download__file_changed_since_the_part__starts_again(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    old = bytes(len(CONTENT))
    behavior.content, behavior.etag = old, '"old"'
    behavior.drop_after = [1 << 20, 0, 0]
    with pytest.raises(DataError, match="gave up after 1"):
        fetch(url, tmp_path / "file.bin", attempts=1)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.version"]
    behavior.content, behavior.etag, behavior.drop_after = CONTENT, '"one"', []
    assert fetch(url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_download__part_is_whole__is_verified_without_asking(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(url, tmp_path / "file.bin")
    assert behavior.asked == []


def test_download__part_is_too_long__starts_again(server: Server, tmp_path: Path) -> None:
    url, behavior = server
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path / "file.bin")
    assert behavior.asked == [None]


def test_download__part_is_too_long_and_size_unknown__starts_again(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path / "file.bin", size=None)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert behavior.asked == [f"bytes={len(CONTENT) + 1}-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_download__wrong_bytes__data_error_and_removed(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    url, behavior = server
    behavior.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match="sha256 of what arrived") as caught:
        fetch(url, tmp_path / "file.bin", size=size)
    assert url in str(caught.value)
    assert names(tmp_path) == []


def test_download__other_size__data_error_before_anything_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    url, _ = server
    with pytest.raises(DataError, match="has 3072000 bytes, 7 were expected"):
        fetch(url, tmp_path / "file.bin", size=7)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403])
def test_download__refused__data_error_at_once(server: Server, tmp_path: Path, status: int) -> None:
    url, behavior = server
    behavior.statuses = [status, status]
    with pytest.raises(DataError, match=str(status)):
        fetch(url, tmp_path / "file.bin")
    assert len(behavior.asked) == 1


@pytest.mark.parametrize("status", [503, 429, 500])
def test_download__overloaded_for_a_while__is_asked_again(
    server: Server, tmp_path: Path, status: int
) -> None:
    url, behavior = server
    behavior.statuses = [status, status]
    assert fetch(url, tmp_path / "file.bin")
    assert len(behavior.asked) == 3


def test_download__never_anything_new__gives_up_and_keeps_the_part(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    behavior.drop_after = [1 << 20] + [0] * 20
    with pytest.raises(DataError, match=r"gave up after 3 attempts.*are kept in"):
        fetch(url, tmp_path / "file.bin")
    assert len(behavior.asked) == 1 + 3
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[: 1 << 20]


def test_download__no_ranges_and_always_dropped__gives_up(server: Server, tmp_path: Path) -> None:
    url, behavior = server
    behavior.ranges = False
    behavior.drop_after = [1_000_000] * 20
    with pytest.raises(DataError, match="gave up after 3 attempts"):
        fetch(url, tmp_path / "file.bin")
    assert len(behavior.asked) == 1 + 3


def test_download__body_of_unknown_length_ends_early__is_noticed_by_size(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    behavior.tell_length = False
    behavior.drop_after = [1 << 20]
    assert fetch(url, tmp_path / "file.bin")
    assert behavior.asked == [None, "bytes=1048576-"]


def test_download__server_sends_another_range__is_not_appended(
    server: Server, tmp_path: Path
) -> None:
    url, behavior = server
    behavior.wrong_start = True
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="from 1001 instead of 1000"):
        fetch(url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1000]


def test_download__nobody_listens__data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gave up after 3 attempts") as caught:
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin")
    assert "Connection refused" in str(caught.value)
    assert "Max retries exceeded" not in str(caught.value)


def test_download__another_process_makes_the_file__waits_and_takes_it(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, behavior = server
    target = tmp_path / "file.bin"
    with ThreadPoolExecutor(1) as pool:
        with made_once(target):
            other = pool.submit(fetch, url, target)
            while "waiting for another process" not in capsys.readouterr().err:
                time.sleep(0.01)
            target.write_bytes(CONTENT)
        assert not other.result()
    assert behavior.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("port", [9, 99999])
def test_download__password_in_the_address__in_no_message(tmp_path: Path, port: int) -> None:
    with pytest.raises(DataError, match=rf"^http://127.0.0.1:{port}/f: ") as caught:
        fetch(f"http://user:secret@127.0.0.1:{port}/f", tmp_path / "f")
    assert "secret" not in str(caught.value)


def test_download__no_address__data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check the address"):
        fetch("nonsense", tmp_path / "file.bin")


def test_download__disk_too_full__data_error_before_asking(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behavior = server
    usage = download_module.shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"file\.bin needs 3\.1 MB, but only 3\.1 MB are free"):
        fetch(url, tmp_path / "file.bin")
    assert behavior.asked == []


def test_download__waits__double_up_to_a_minute(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behavior = server
    waits: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", waits.append)
    behavior.statuses = [503] * 9
    with pytest.raises(DataError, match="gave up after 8"):
        download(url, tmp_path / "f", SHA256, attempts=8, backoff_s=1.0, progress=False)
    assert waits == [1, 2, 4, 8, 16, 32, 60]


def test_require_space__enough__is_silent(tmp_path: Path) -> None:
    assert require_space(tmp_path, 1, what="a byte") is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (815_585_330, "815.6 MB"),
        (19_336_861_798, "19.3 GB"),
        (4_000_000_000_000, "4000.0 GB"),
    ],
)
def test_format_size__powers_of_thousand(size: int, text: str) -> None:
    assert format_size(size) == text
