"""Public names as models: their weights are downloaded and converted once. No torch until then."""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets.errors import DataError

if TYPE_CHECKING:
    from ..backbone.weights.hub import PublicWeights

ACCEPT_VARIABLE = "MOBILEVISION_ACCEPT_LICENSE"
"""Environment variable with the license that is accepted, or several with commas between them."""


@contextmanager
def accepting(license: str) -> Iterator[None]:
    """Accept a license of public weights while the block runs, also in processes that it starts."""
    before = os.environ.get(ACCEPT_VARIABLE)
    os.environ[ACCEPT_VARIABLE] = ",".join(filter(None, [before, license]))
    try:
        yield
    finally:
        if before is None:
            del os.environ[ACCEPT_VARIABLE]
        else:
            os.environ[ACCEPT_VARIABLE] = before


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
    from ..backbone.weights.hub import NOT_CONVERTED, PUBLIC_WEIGHTS

    known = [name for name, weights in PUBLIC_WEIGHTS.items() if not jobs or weights.job in jobs]
    names = f"Public names are {', '.join(known)}." if known else ""
    if str(model) not in PUBLIC_WEIGHTS:
        raise DataError(" ".join(filter(None, [f"{model}: no such model.", hint, names])))
    if str(model) not in known:
        found = PUBLIC_WEIGHTS[str(model)].job
        raise DataError(
            f"{model}: is a model for {found}, not for {' or '.join(jobs)}. {names}".strip()
        )
    if PUBLIC_WEIGHTS[str(model)].network:
        raise DataError(f"{model}: {NOT_CONVERTED}")
    return public_checkpoint(str(model))


def find_network(model: str | Path) -> tuple[str, Path] | None:
    """Return what runs a face network of another project, and its file; None for other models.

    A file of that name has precedence.

    Args:
        model: ``facenet:FILE``, ``onnx:FILE``, ``ncnn:FILE.param``, or a public name of such a
            network, which is downloaded on first use.

    Raises:
        DataError: It cannot be downloaded, or its license is not accepted.
    """
    from ..backbone.weights.hub import PUBLIC_WEIGHTS, existing_file
    from ..heads.face_embedding.external_networks import NETWORKS

    name = str(model)
    if Path(name).exists():
        return None
    if name in PUBLIC_WEIGHTS:
        kind = PUBLIC_WEIGHTS[name].network
        return (kind, existing_file(name) or _fetched(name)) if kind else None
    kind, _, rest = name.partition(":")
    return (kind, Path(rest)) if kind in NETWORKS and rest else None


def public_checkpoint(name: str) -> Path:
    """Return the checkpoint of a public name, which is made on first use and lies in the cache.

    The first time, stderr says what is downloaded, how large it is, under which license, and where
    the checkpoint lies. A checkpoint of other weights than those in the cache is made anew.

    Raises:
        DataError: The weights cannot be downloaded.
        WeightsError: There is no such name, or a library that reads its format is not installed.
    """
    from ..backbone.weights.hub import cache_folder, cached_path, sha256_of

    try:
        from .importing import import_weights
    except ModuleNotFoundError as error:
        raise DataError(
            f"{name}: no such file. The names of public models need {error.name}, which converts "
            "their weights: pip install mobilevision, or give a file that `mobilevision export` "
            "wrote."
        ) from error
    from ..backbone.errors import WeightsError
    from ..datasets.download import format_size

    source, path = cached_path(name), cache_folder() / f"{name}.ckpt"
    stored = _sha256_in(path)
    if stored and (not source.is_file() or stored == sha256_of(source)):
        return path
    if not source.is_file():
        _fetched(name)
    try:
        import_weights(name, path)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nIf the file is damaged, delete it: it is downloaded again on the next use."
        ) from error
    size = format_size(path.stat().st_size)
    print(f"{name}: a checkpoint of {size} from now on, {path}", file=sys.stderr)
    return path


def _fetched(name: str) -> Path:
    """Download the weights of a public name on first use; stderr and errors say how and where."""
    from ..backbone.weights.hub import cached_path, find_public

    weights, path = find_public(name), cached_path(name)
    _require_accepted(name, weights)
    _announce(name, weights)
    try:
        return download_public(name, attempts=3)
    except DataError as error:
        accept = f" --accept-license {weights.license}" if weights.terms else ""
        files = f"{path.name} and {path.stem}.bin" if weights.bin_sha256 else path.name
        raise DataError(
            f"{error}\nWithout a connection: run `mobilevision weights download {name}{accept}` on "
            f"a machine that has one, and copy {files} to {path.parent} (the environment variable "
            "MOBILEVISION_CACHE names another cache). A mirror or a copy of "
            f"{_archive_of(weights)} will do, too: "
            f"`mobilevision weights download {name}{accept} --url URL_OR_FILE`."
        ) from error


def _require_accepted(name: str, weights: "PublicWeights") -> None:
    accepted = os.environ.get(ACCEPT_VARIABLE, "").split(",")
    if not weights.terms or weights.license in accepted:
        return
    raise DataError(
        f"{name}: is not downloaded before its license is accepted: {weights.license}. "
        f"{weights.terms} Trained on: {weights.data}. To accept that, add --accept-license "
        f"{weights.license} once, or set the environment variable "
        f"{ACCEPT_VARIABLE}={weights.license}."
    )


def download_public(name: str, url: str | None = None, attempts: int = 6) -> Path:
    """Return the weights of a public name in the cache, downloaded and verified if necessary.

    Args:
        name: A name of ``mobilevision weights list``.
        url: A mirror of the archive, or a copy of it on this machine. A second file is looked for
            beside it.
        attempts: See ``download``.

    Raises:
        DataError: The license is not accepted, the download fails, or a file has another hash.
        WeightsError: There is no such name.
    """
    from ..backbone.weights.hub import cached_path, find_public
    from ..datasets.download import extract_file, made_once

    weights, path = find_public(name), cached_path(name)
    if path.is_file():
        return path
    _require_accepted(name, weights)
    source = url or weights.url
    if not weights.member:
        if weights.bin_sha256:  # before the first file, whose being there says that all is there
            other, suffix = path.with_suffix(".bin"), Path(source).suffix
            _obtain(source.removesuffix(suffix) + ".bin", other, weights.bin_sha256, attempts)
        _obtain(source, path, weights.sha256, attempts)
        return path
    with made_once(path):
        if not path.is_file():
            archive = path.with_name(_archive_of(weights))
            _obtain(source, archive, weights.sha256, attempts)
            extract_file(archive, weights.member, path)
            archive.unlink()
    return path


def _obtain(source: str, target: Path, sha256: str, attempts: int) -> None:
    """Download a file, or copy it where the source is a file here, and verify it."""
    from ..backbone.weights.hub import sha256_of
    from ..datasets.download import Checksum, download
    from ..datasets.files import write_atomically

    if not Path(source).is_file():
        if "://" not in source:
            raise DataError(f"{source}: no such file; name an address or a copy of the file")
        download(source, target, Checksum("sha256", sha256), attempts=attempts)
        return
    if sha256_of(Path(source)) != sha256:
        raise DataError(f"{source}: is not a copy of the published file: its sha256 differs")
    write_atomically(target, Path(source).read_bytes())


def _announce(name: str, weights: "PublicWeights") -> None:
    print(
        f"{name} is downloaded once: {weights.source}, license {weights.license}, from "
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
