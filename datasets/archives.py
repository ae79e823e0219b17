"""Unpacking archives: safely, and all or nothing."""

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from .download import CHUNK_BYTES, byte_bar, require_space
from .errors import DataError

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def unzip(archive: Path, folder: Path, *, progress: bool = True) -> None:
    """Unpack a zip archive into a folder.

    Everything is unpacked into a hidden folder first and moved when it is complete. A folder of
    the archive that does not exist yet appears whole; files that exist are replaced.

    Args:
        archive: Zip file. All its checksums are verified.
        folder: Where its entries go; made if it is absent.
        progress: Show a progress bar on stderr.

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
    """Take one file out of a zip or (compressed) tar archive; nothing else is unpacked.

    The file appears under its name when it is whole. Where it lies in the archive has no influence
    on where it goes.

    Args:
        archive: Zip or tar file, told apart by content.
        member: Path of the file in the archive; a leading "./" in the archive does not matter.
        target: File to write or replace; its folder is made too.

    Raises:
        DataError: It is no such archive or is damaged, or holds no plain file of this name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with _open_member(archive, member) as source, partial.open("wb") as file:
            for chunk in _chunks(source):
                file.write(chunk)
        os.replace(partial, target)
    except (*_DAMAGE, RuntimeError, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"{archive}: is not a whole archive ({error}); fetch it again") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    # zipfile looks at the end alone, and takes a tar file whose last file is a zip archive for one.
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as opened:
            names = {_plain(entry.filename): entry for entry in opened.infolist()}
            if member in names:
                with _open_entry(opened, names[member]) as source:
                    yield source
                return
    else:
        with tarfile.open(archive) as opened:
            names = {_plain(entry.name): entry for entry in opened if entry.isfile()}
            source = opened.extractfile(names[member]) if member in names else None
            if source is not None:
                with source:
                    yield source
                return
    raise DataError(f"{archive}: holds no file {member}, but {', '.join(sorted(names)) or 'none'}")


def _plain(name: str) -> str:
    return name.removeprefix("./")


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
        for chunk in _chunks(source):
            file.write(chunk)
            bar.update(len(chunk))


def _open_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.header_offset < 0:  # zipfile subtracts what comes before the archive, and seeks there
        raise zipfile.BadZipFile(f"{entry.filename} begins before the archive")
    return opened.open(entry)


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _move_into(source: Path, folder: Path) -> None:
    """Rename the content of ``source`` into ``folder``, merging folders that exist in both."""
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move_into(path, target)
        else:
            os.replace(path, target)
