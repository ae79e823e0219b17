"""Weight files on the Hugging Face hub, by names such as ``hf:timm/mobilenetv1_100``.

A name is ``hf:OWNER/REPOSITORY``, with ``@REVISION`` for another revision than ``main``; the file
is the repository's ``model.safetensors``. Files lie in the hub's own cache (``HF_HOME``). Nothing
is downloaded but by ``fetch``, which ``mobilevision weights download`` calls.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import WeightsError

FILE_NAME = "model.safetensors"
_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubName(NamedTuple):
    """A repository of the hub at a revision."""

    repository: str
    """``owner/name``."""
    revision: str
    """Branch, tag or commit."""


def parse_name(name: str) -> HubName | None:
    """Take a name apart; None where it does not start with ``hf:``.

    Raises:
        WeightsError: It does, and is not of the form ``hf:OWNER/REPOSITORY[@REVISION]``.
    """
    if not name.startswith("hf:"):
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise WeightsError(
            f"{name}: names on the Hugging Face hub are hf:OWNER/REPOSITORY or "
            "hf:OWNER/REPOSITORY@REVISION"
        )
    return HubName(match["repository"], match["revision"] or "main")


def cached_file(name: str) -> Path:
    """Return the file of a name that was downloaded before; nothing is asked on the network.

    Raises:
        WeightsError: It was not; the message says how to.
    """
    parsed = _parsed(name)
    found = _library().try_to_load_from_cache(
        parsed.repository, FILE_NAME, revision=parsed.revision
    )
    if not isinstance(found, str):
        raise WeightsError(
            f"{name}: not in the Hugging Face hub's cache yet; fetch it with: "
            f"mobilevision weights download {name}"
        )
    return Path(found)


def commit_of(path: Path) -> str | None:
    """Return the commit that a file of the hub's cache is of; None for other files."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def fetch(name: str, sha256: str | None = None) -> tuple[Path, str]:
    """Download the file of a name, with a progress bar on stderr, and verify it.

    Args:
        name: ``hf:OWNER/REPOSITORY[@REVISION]``.
        sha256: What it must hash to; None takes the sum that the hub states for this revision,
            which guards against damage on the way, not against another file at the hub.

    Returns:
        The file in the hub's cache, and its sha256.

    Raises:
        WeightsError: The hub cannot be reached or has no such file, states no sum while none is
            given, or the sum is another; the file is then removed.
    """
    parsed, hub = _parsed(name), _library()
    try:
        facts = hub.get_hf_file_metadata(
            hub.hf_hub_url(parsed.repository, FILE_NAME, revision=parsed.revision)
        )
        stated = facts.etag or ""
        expected = (sha256 or stated).lower()
        if not _SHA256.fullmatch(expected):
            raise WeightsError(
                f"{name}: the hub states no sha256 of {FILE_NAME}; give the one you expect with "
                "--sha256"
            )
        path = Path(hub.hf_hub_download(parsed.repository, FILE_NAME, revision=parsed.revision))
    except WeightsError:
        raise
    except Exception as error:  # the hub's own errors, and those of its HTTP library
        raise WeightsError(
            f"{name}: cannot be downloaded from the Hugging Face hub ({error}). Check the name and "
            "the connection"
        ) from error
    found = sha256_of(path)
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"{name}: the sha256 of what arrived is {found}, not {expected}; it was removed"
        )
    return path, found


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parsed(name: str) -> HubName:
    parsed = parse_name(name)
    if parsed is None:
        raise WeightsError(f"{name}: not a name on the Hugging Face hub (hf:OWNER/REPOSITORY)")
    return parsed


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            "names with hf: need the package huggingface_hub: pip install 'mobilevision[hub]'"
        ) from error
    return huggingface_hub
