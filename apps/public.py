"""Public names as models: their weights are downloaded and converted once. No torch until then."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets.errors import DataError

if TYPE_CHECKING:
    from ..backbone.weights.hub import PublicWeights


def find_model(model: str | Path, jobs: Collection[str] = (), hint: str = "") -> Path:
    """Return the file of a model: the file itself, or the checkpoint of a public name.

    A file of that name has precedence.

    Args:
        model: A file, or a name of ``mobilevision weights list``.
        jobs: The jobs that the model may be for; none takes any.
        hint: What else may be given, for the message.

    Raises:
        DataError: There is neither, or the name is that of another job.
        DataError, WeightsError: As ``public_checkpoint``.
    """
    path = Path(model)
    if path.exists():
        return path
    try:
        from ..backbone.weights.hub import PUBLIC_WEIGHTS
    except ImportError as error:
        raise DataError(
            f"{model}: no such file. The names of public models need torch, which converts their "
            "weights: pip install mobilevision, or give a file that `mobilevision export` wrote."
        ) from error
    known = [name for name, weights in PUBLIC_WEIGHTS.items() if not jobs or weights.job in jobs]
    names = f"Public names are {', '.join(known)}." if known else ""
    if str(model) not in PUBLIC_WEIGHTS:
        raise DataError(" ".join(filter(None, [f"{model}: no such model.", hint, names])))
    if str(model) not in known:
        found = PUBLIC_WEIGHTS[str(model)].job
        raise DataError(
            f"{model}: is a model for {found}, not for {' or '.join(jobs)}. {names}".strip()
        )
    return public_checkpoint(str(model))


def public_checkpoint(name: str) -> Path:
    """Return the checkpoint of a public name, which is made on first use and lies in the cache.

    The first time, stderr says what is downloaded, how large it is, under which license, and where
    the checkpoint lies. A checkpoint of other weights than those in the cache is made anew.

    Raises:
        DataError: The weights cannot be downloaded.
        WeightsError: There is no such name, or a library that reads its format is not installed.
    """
    from ..backbone.weights.hub import cache_folder, cached_path, find_public, sha256_of

    weights, source = find_public(name), cached_path(name)
    path = cache_folder() / f"{name}.ckpt"
    stored = _sha256_in(path)
    if stored and (not source.is_file() or stored == sha256_of(source)):
        return path
    if not source.is_file():
        _announce(name, weights)
        try:
            download_public(name, attempts=3)
        except DataError as error:
            raise DataError(
                f"{error}\nWithout a connection: run `mobilevision weights download {name}` on a "
                f"machine that has one, and copy {source.name} to {source.parent} (the environment "
                "variable MOBILEVISION_CACHE names another cache). A mirror or a copy of "
                f"{_archive_of(weights)} will do, too: "
                f"`mobilevision weights download {name} --url URL_OR_FILE`."
            ) from error
    from ..backbone.errors import WeightsError
    from ..datasets.download import format_size
    from .importing import import_weights

    try:
        import_weights(name, path)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nIf the file is damaged, delete it: it is downloaded again on the next use."
        ) from error
    size = format_size(path.stat().st_size)
    print(f"{name}: a checkpoint of {size} from now on, {path}", file=sys.stderr)
    return path


def download_public(name: str, url: str | None = None, attempts: int = 6) -> Path:
    """Return the weights of a public name in the cache, downloaded and verified if necessary.

    Args:
        name: A name of ``mobilevision weights list``.
        url: A mirror of the archive, or a copy of it on this machine.
        attempts: See ``download``.

    Raises:
        DataError: The download fails, or the archive has another hash.
        WeightsError: There is no such name.
    """
    from ..backbone.weights.hub import cached_path, find_public, sha256_of
    from ..datasets.download import Checksum, download, extract_file, made_once
    from ..datasets.files import write_atomically

    weights, path = find_public(name), cached_path(name)
    if path.is_file():
        return path
    if url is not None and Path(url).is_file():
        if sha256_of(Path(url)) != weights.sha256:
            raise DataError(f"{url}: is not a copy of {weights.url}: its sha256 differs")
        if weights.member:
            extract_file(Path(url), weights.member, path)
        else:
            write_atomically(path, Path(url).read_bytes())
        return path
    checksum = Checksum("sha256", weights.sha256)
    if not weights.member:
        download(url or weights.url, path, checksum, attempts=attempts)
        return path
    with made_once(path):
        if not path.is_file():
            archive = path.with_name(_archive_of(weights))
            download(url or weights.url, archive, checksum, attempts=attempts)
            extract_file(archive, weights.member, path)
            archive.unlink()
    return path


def _announce(name: str, weights: "PublicWeights") -> None:
    print(
        f"{name} is downloaded once: {weights.source}, license {weights.licence}, from "
        f"{weights.url}",
        file=sys.stderr,
    )


def _archive_of(weights: "PublicWeights") -> str:
    return weights.url.rpartition("/")[2]


def _sha256_in(checkpoint: Path) -> str | None:
    """Return the hash of the weights that a checkpoint was made of; None if it cannot be used."""
    if not checkpoint.is_file():
        return None
    from ..heads.checkpoint import CheckpointError, read_checkpoint

    try:
        return read_checkpoint(checkpoint)["mobilevision"]["provenance"]["sha256"]
    except (CheckpointError, KeyError, TypeError):
        return None
