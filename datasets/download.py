"""Verified downloads that can be interrupted, and archives unpacked as a whole or not at all."""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import sys
import tarfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import requests
from tqdm import tqdm

from .errors import DataError
from .files import replaced_atomically

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def unzip(archive: Path, folder: Path, *, progress: bool = True) -> None:
    """Unpack a zip archive into a folder, which is made if needed, and verify its checksums.

    Everything is unpacked into a hidden folder first and moved when it is complete. A folder of
    the archive that does not exist yet appears whole; files that exist are replaced.

    Raises:
        DataError: It is no zip archive, is damaged or encrypted, has an entry that points out
            of the folder or is a link, or the disk is too full. The folder is then unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{archive.stem}.{uuid.uuid4().hex}.partial"
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            for entry in entries:
                _require_harmless(archive, entry)
            total = sum(entry.file_size for entry in entries)
            require_space(folder, total, what=f"the content of {archive.name}")
            partial.mkdir()
            with byte_bar(f"unpacking {archive.name}", total, progress) as bar:
                for entry in entries:
                    _extract(opened, entry, partial, bar)
    except _DAMAGE as error:
        raise DataError(
            f"{archive}: is not a whole zip archive ({error}); fetch it again"
        ) from error
    else:
        _move_into(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def extract_file(archive: Path, member: str, target: Path) -> None:
    """Extract one file of a zip or (compressed) tar archive, told apart by content.

    A leading "./" of the member in the archive does not matter. The target is written atomically.

    Raises:
        DataError: It is no such archive or is damaged, or holds no plain file of this name.
    """
    try:
        with (
            replaced_atomically(target) as partial,
            _open_member(archive, member) as source,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, CHUNK_BYTES)
    except (*_DAMAGE, RuntimeError, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"{archive}: is not a whole archive ({error}); fetch it again") from error


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    # zipfile reads only the end, and so takes a tar file that ends in a zip archive for one.
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as opened:
            names = {entry.filename.removeprefix("./"): entry for entry in opened.infolist()}
            if member in names:
                with _open_entry(opened, names[member]) as source:
                    yield source
                return
    else:
        with tarfile.open(archive) as opened:
            names = {entry.name.removeprefix("./"): entry for entry in opened if entry.isfile()}
            source = opened.extractfile(names[member]) if member in names else None
            if source is not None:
                with source:
                    yield source
                return
    raise DataError(f"{archive}: holds no file {member}, but {', '.join(sorted(names)) or 'none'}")


def _require_harmless(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    outside = path.is_absolute() or ".." in path.parts
    # Backslashes and colons separate folders and name drives on Windows.
    outside = outside or "\\" in entry.filename or ":" in entry.filename
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(
            f"{archive}: the entry {entry.filename!r} leads out of the folder; nothing was "
            "unpacked. Do not trust this archive"
        )
    if entry.flag_bits & 1:
        raise DataError(f"{archive}: the entry {entry.filename!r} is encrypted; decrypt it first")


def _extract(
    opened: zipfile.ZipFile, entry: zipfile.ZipInfo, partial: Path, bar: "tqdm[Any]"
) -> None:
    path = partial / entry.filename
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_entry(opened, entry) as source, path.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
            bar.update(len(chunk))


def _open_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.header_offset < 0:  # zipfile subtracts what comes before the archive, and seeks there
        raise zipfile.BadZipFile(f"{entry.filename} begins before the archive")
    return opened.open(entry)


def _move_into(source: Path, folder: Path) -> None:
    """Rename the content of ``source`` into ``folder``, merging folders that exist in both."""
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move_into(path, target)
        else:
            os.replace(path, target)


CHUNK_BYTES = 1 << 20
# Small, because a chunk that a dropped connection did not complete is lost.
_NETWORK_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = (15, 60)
_LONGEST_WAIT_S = 60.0
_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Checksum(NamedTuple):
    """The hash of a file: an algorithm of ``hashlib``, and hexadecimal digits in lower case."""

    algorithm: str
    digest: str


class _RetryError(Exception):
    """A failure of the connection after which another attempt may succeed."""


_PASSING_ERRORS = (
    _RetryError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def download(
    url: str,
    target: Path,
    checksum: Checksum,
    *,
    size: int | None = None,
    attempts: int = 6,
    backoff_s: float = 1.0,
    progress: bool = True,
) -> bool:
    """Fetch a file, continuing where an earlier attempt stopped; return False if it was there.

    The bytes go to ``<target>.part``, which is renamed once its checksum is right. A target
    that exists and is right is kept.

    Args:
        url: http or https address.
        target: File to make; its folder is made if needed.
        checksum: The hash of the file. There is no download without one.
        size: Bytes of the whole file, if known.
        attempts: Number of attempts in a row that may bring no bytes, at least 1.
        backoff_s: Wait in seconds between them; it doubles up to a minute.
        progress: Show progress bars on stderr.

    Raises:
        DataError: The address is wrong, the server keeps failing, the disk is too full, or the
            bytes are not those expected; in the last case the partial file is removed.
    """
    with made_once(target):
        return _download(url, target, checksum, size, attempts, backoff_s, progress)


@contextmanager
def made_once(target: Path) -> Iterator[None]:
    """Wait as long as another process makes the file; then look whether it is there.

    The file of the lock is removed when the body succeeds, for whoever locked it finds the target.

    Raises:
        OSError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{target}: waiting for another process that makes it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
    with suppress(OSError):  # on Windows, where somebody waits
        os.unlink(lock.lock_file)


def _download(
    url: str,
    target: Path,
    checksum: Checksum,
    size: int | None,
    attempts: int,
    backoff_s: float,
    progress: bool,
) -> bool:
    name = without_password(url)
    if target.exists():
        if _digest(target, checksum.algorithm, progress) == checksum.digest:
            return False
        raise DataError(
            f"{target}: exists, but is not the file of {name} (its {checksum.algorithm} differs "
            f"from {checksum.digest}); move it away and start again"
        )
    part = target.with_name(target.name + ".part")
    if size is not None:
        if part.exists() and part.stat().st_size > size:
            part.unlink()
        require_space(target.parent, size - _size(part), what=target.name)
    if size is None or _size(part) < size:
        _fetch_persistently(url, part, size, progress, attempts=attempts, backoff_s=backoff_s)
    found = _digest(part, checksum.algorithm, progress)
    if found != checksum.digest:
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise DataError(
            f"{name}: the {checksum.algorithm} of what arrived is {found}, not "
            f"{checksum.digest}; it was removed. Start again; if it happens twice, the server "
            "or something on the way changes the file"
        )
    os.replace(part, target)
    _validator_file(part).unlink(missing_ok=True)
    return True


def fetch_bytes(url: str, most: int) -> bytes:
    """Return what an address holds, to be read as data: there is no hash to compare with.

    Args:
        url: http or https address.
        most: Maximum number of bytes.

    Raises:
        DataError: The address is wrong, the server refuses or is silent for too long, or there are
            more bytes.
    """
    name, content = without_password(url), bytearray()
    deadline = time.monotonic() + _LONGEST_WAIT_S
    try:
        with open_url(url) as reply:
            for chunk in reply.iter_content(_NETWORK_CHUNK_BYTES):
                content += chunk
                if len(content) > most or time.monotonic() > deadline:
                    raise DataError(
                        f"{name}: more than {format_size(most)}, or longer than "
                        f"{_LONGEST_WAIT_S:.0f} s on its way; download it and give the file"
                    )
    except requests.RequestException as error:
        raise DataError(
            f"{name}: cannot be fetched ({_reason(error, url)}). Check the connection"
        ) from error
    return bytes(content)


def open_url(url: str) -> requests.Response:
    """Request an address, whose answer is read as a stream.

    Raises:
        DataError: The server answers with an error.
        requests.RequestException: There is no answer.
    """
    headers = {"User-Agent": "mobilevision"}
    reply = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
    if not reply.ok:
        reply.close()
        raise DataError(
            f"{without_password(url)}: the server answered {reply.status_code} {reply.reason}; "
            "check the address"
        )
    return reply


def content_type(url: str) -> str:
    """Return the type that a server states for an address, such as ``image/jpeg``.

    Raises:
        DataError: The server refuses or does not answer.
    """
    try:
        with open_url(url) as reply:
            return reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    except requests.RequestException as error:
        problem = f"cannot be reached ({_reason(error, url)}). Check address and connection"
        raise DataError(f"{without_password(url)}: {problem}") from error


def without_password(url: str) -> str:
    """Return an address without user name and password, for messages and names."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def _reason(error: requests.RequestException, url: str) -> str:
    """Return the message of an error, which may quote the address, without its password."""
    return str(error).replace(url, without_password(url))


def require_space(folder: Path, needed: int, *, what: str) -> None:
    """Raise a `DataError` unless a disk has room for so many bytes of ``what``."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {what} needs {format_size(needed)}, but only {format_size(free)} are "
            "free; make room or name a folder on another disk"
        )


def format_size(size: float) -> str:
    """Format bytes in powers of 1000: 815585330 becomes "815.6 MB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, algorithm: str, progress: bool) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with (
        path.open("rb") as file,
        byte_bar(f"checking {path.name}", path.stat().st_size, progress) as bar,
    ):
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def byte_bar(title: str, total: int | None, progress: bool, initial: int = 0) -> "tqdm[Any]":
    """Return a progress bar on stderr that counts bytes and disappears when it is closed."""
    return tqdm(desc=title, total=total, initial=initial, unit="B", unit_scale=True, leave=False,
                disable=not progress)  # fmt: skip


def _fetch_persistently(
    url: str, part: Path, size: int | None, progress: bool, *, attempts: int, backoff_s: float
) -> None:
    """Call ``_fetch`` until the part is whole or ``attempts`` in a row brought nothing new."""
    name = without_password(url)
    furthest = _size(part)
    fruitless = 0
    while True:
        try:
            _fetch(url, part, size, progress)
        except _PASSING_ERRORS as error:
            reason = _root_cause(error)
        except requests.RequestException as error:
            problem = f"cannot be downloaded ({_reason(error, url)}); check the address"
            raise DataError(f"{name}: {problem}") from error
        else:
            return
        fruitless = 0 if _size(part) > furthest else fruitless + 1
        furthest = max(furthest, _size(part))
        if fruitless >= attempts:
            raise DataError(
                f"{name}: gave up after {attempts} attempts ({reason}). Check the connection and "
                f"start again: {format_size(_size(part))} are kept in {part}"
            ) from reason
        time.sleep(min(backoff_s * 2 ** max(fruitless - 1, 0), _LONGEST_WAIT_S))


def _root_cause(error: BaseException) -> BaseException:
    """Return what requests and urllib3 have wrapped, such as an address that is not known."""
    inner = getattr(error, "reason", None) or next(iter(error.args), None)
    return _root_cause(inner) if isinstance(inner, BaseException) else error


def _fetch(url: str, part: Path, size: int | None, progress: bool) -> None:
    """Request the missing bytes of a file once and append those that arrive.

    Raises:
        _RetryError: The body ended early, or the server is overloaded.
        DataError: The server refuses, or has another file.
        requests.RequestException: The connection failed.
    """
    have = _size(part)
    with requests.get(url, headers=_headers(part, have), stream=True, timeout=_TIMEOUT_S) as reply:
        if reply.status_code in _PASSING_STATUSES:
            raise _RetryError(f"the server answered {reply.status_code} {reply.reason}")
        if reply.status_code == requests.codes.requested_range_not_satisfiable and have:
            part.unlink()
            raise _RetryError("the server has no such range of bytes; starting again")
        if not reply.ok:
            raise DataError(
                f"{without_password(url)}: the server answered {reply.status_code} {reply.reason}; "
                "check the address"
            )
        start, total = _extent(reply)
        if start not in (0, have):
            raise _RetryError(f"the server sent bytes from {start} instead of {have}")
        if size is not None and total is not None and total != size:
            raise DataError(
                f"{without_password(url)}: the server's file has {total} bytes, {size} were "
                "expected: it is not the same file"
            )
        _remember_validator(part, reply)
        total = total if size is None else size
        require_space(part.parent, (total or start) - start, what=part.name)
        title = part.name.removesuffix(".part")
        with (
            part.open("ab" if start else "wb") as file,
            byte_bar(title, total, progress, initial=start) as bar,
        ):
            for chunk in reply.iter_content(_NETWORK_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _RetryError(f"the connection ended after {_size(part)} of {total} bytes")


def _headers(part: Path, have: int) -> dict[str, str]:
    # With compression in transit, byte ranges would not count the bytes of the file.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        validator = _validator_file(part)
        if validator.is_file():
            headers["If-Range"] = validator.read_text(encoding="latin-1")
    return headers


def _validator_file(part: Path) -> Path:
    """Return the file with the version of a partial file, so that two versions never mix."""
    return part.with_name(part.name + ".version")


def _remember_validator(part: Path, reply: requests.Response) -> None:
    etag = reply.headers.get("ETag", "")
    # A weak tag may stand for different bytes, so If-Range does not allow it (RFC 9110, 13.1.5).
    validator = etag if etag.startswith('"') else reply.headers.get("Last-Modified", "")
    if validator:
        _validator_file(part).write_text(validator, encoding="latin-1")
    else:
        _validator_file(part).unlink(missing_ok=True)


def _extent(reply: requests.Response) -> tuple[int, int | None]:
    """Return the first byte of a body, and the size of the whole file if the server states it."""
    if reply.status_code == requests.codes.partial_content:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
        if match is None:
            raise _RetryError("the server does not say which bytes it sent")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = reply.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdecimal() else None
