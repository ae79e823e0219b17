"""Public weights by name: their source and their place in the cache.

Nothing here touches the network: ``mobilevision weights download NAME`` fetches, checks and unpacks
a file into the cache, and everything that takes a path to weights takes the name from then on.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import WeightsError, import_extra


class PublicWeights(NamedTuple):
    """One published weight file."""

    url: str
    """The archive that holds it, or the file itself."""
    sha256: str
    """Hash of what is at the address, hexadecimal."""
    member: str
    """The file inside the archive; empty where there is none."""
    width_mult: float
    """The width multiplier of the network that it fits."""
    licence: str
    source: str
    """Description and publisher."""
    job: str = "classification"
    """What the network does: ``classification``, ``detection`` or ``face_detection``."""


_TENSORFLOW = "https://storage.googleapis.com/download.tensorflow.org/models"
_FPN = "ssd_mobilenet_v1_fpn_shared_box_predictor_640x640_coco14_sync_2018_07_03"

# Each sum is pinned for its address by two or more projects that do not copy from each other:
# - the float classifier: the Yocto recipes renesas-rz/meta-renesas-ai (models-tensorflow.bb) and
#   NobuoTsukamoto/meta-tensorflow-lite (python3-tensorflow-lite-example_2.19.0.bb);
# - the 8-bit classifier of width 1: TensorFlow itself (tensorflow/workspace2.bzl,
#   tflite_mobilenet_quant) and meta-renesas-ai (models for TensorFlow Lite);
# - that of width 0.5: meta-renesas-ai (likewise) and STMicroelectronics/meta-st-x-linux-ai (its
#   recipe of MobileNetV1 models);
# - the detector: TensorFlow (tflite_mobilenet_ssd_quant, the same file under the name ..._0.75_...)
#   and meta-st-x-linux-ai (its recipe of COCO models). "1.0" in its name is wrong, its width is
#   0.75.
# The address of the face detector names a commit, so what is there cannot change.
# Those of the frozen graphs stand in one project alone, openvinotoolkit/open_model_zoo
# (models/public/ssd_mobilenet_v1_coco/model.yml and ..._fpn_coco/model.yml).
PUBLIC_WEIGHTS: dict[str, PublicWeights] = {
    "mobilenet_v1_1.0_224": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz",
        sha256="1ccb74dbd9c5f7aea879120614e91617db9534bdfaa53dfea54b7c14162e126b",
        member="mobilenet_v1_1.0_224.tflite",
        width_mult=1.0, licence="Apache-2.0", source="TensorFlow: ImageNet classifier, float32",
    ),
    "mobilenet_v1_1.0_224_quant": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_08_02/mobilenet_v1_1.0_224_quant.tgz",
        sha256="d32432d28673a936b2d6281ab0600c71cf7226dfe4cdcef3012555f691744166",
        member="mobilenet_v1_1.0_224_quant.tflite",
        width_mult=1.0, licence="Apache-2.0", source="TensorFlow: ImageNet classifier, 8-bit",
    ),
    "mobilenet_v1_0.5_128_quant": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_08_02/mobilenet_v1_0.5_128_quant.tgz",
        sha256="0a5b18571d3df4d85a5ac6cb5be829d141dd5855243ea04422ca7d19f730a506",
        member="mobilenet_v1_0.5_128_quant.tflite",
        width_mult=0.5, licence="Apache-2.0", source="TensorFlow: ImageNet classifier, 8-bit",
    ),
    "ssd_mobilenet_v1_0.75_coco_quant": PublicWeights(
        url=f"{_TENSORFLOW}/tflite/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.zip",
        sha256="a809cd290b4d6a2e8a9d5dad076e0bd695b8091974e0eed1052b480b2f21b6dc",
        member="detect.tflite",
        width_mult=0.75, licence="Apache-2.0", source="TensorFlow: COCO detector SSD-300, 8-bit",
        job="detection",
    ),
    "ssd_mobilenet_v1_1.0_coco": PublicWeights(
        url=f"{_TENSORFLOW}/object_detection/ssd_mobilenet_v1_coco_2018_01_28.tar.gz",
        sha256="8788f89108519fd1102b8a5c2ac861cf6d86603571b6ce5bbd1c245b7fe005e3",
        member="ssd_mobilenet_v1_coco_2018_01_28/frozen_inference_graph.pb",
        width_mult=1.0, licence="Apache-2.0", source="TensorFlow: COCO detector SSD-300, float32",
        job="detection",
    ),
    "ssd_mobilenet_v1_1.0_fpn_coco": PublicWeights(
        url=f"{_TENSORFLOW}/object_detection/{_FPN}.tar.gz",
        sha256="e8886ece7f3a0993678440305a98f5be649a90b314c95ca94565c23ed20b1fb0",
        member=f"{_FPN}/frozen_inference_graph.pb",
        width_mult=1.0, licence="Apache-2.0", source="TensorFlow: COCO detector FPN-640, float32",
        job="detection",
    ),
    "retinaface_mobilenet_0.25": PublicWeights(
        url="https://github.com/sglee487/Pytorch_Retinaface/raw/"
            "d305e87397d10fd46ee3a8a7842806bd318b9778/weights/mobilenet0.25_Final.pth",
        sha256="7c417d4a43c5e2100ef40c2fbd2177d2fd0e5090d8e87c0fa31806cfb895c12f",
        member="",
        width_mult=0.25, licence="MIT", source="Pytorch_Retinaface: face detector, WIDER FACE",
        job="face_detection",
    ),
}  # fmt: skip
"""The weights that can be downloaded, by name."""


def cache_folder() -> Path:
    """Return the folder of downloaded weights, which need not exist.

    ``weights`` in the folder that the environment variable ``MOBILEVISION_CACHE`` names, else in
    ``mobilevision`` in the user's cache: ``XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    own = os.environ.get("MOBILEVISION_CACHE")
    if own:
        return Path(own).expanduser() / "weights"
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "mobilevision" / "weights"


def find_public(name: str) -> PublicWeights:
    """Return the public weights of a name; a WeightsError lists the names that there are."""
    if name not in PUBLIC_WEIGHTS:
        raise WeightsError(f"{name}: no public weights of this name; {_KNOWN_NAMES}")
    return PUBLIC_WEIGHTS[name]


def cached_path(name: str) -> Path:
    """Return the path of the weights of a public name in the cache, downloaded or not."""
    weights = find_public(name)
    return cache_folder() / f"{name}{Path(weights.member or weights.url).suffix}"


def resolve_weights(name_or_path: str | Path) -> Path:
    """Return the existing file of a public name, of ``hf:OWNER/REPOSITORY[@REVISION]`` or a path.

    Raises:
        WeightsError: There is no such name or file, or the weights were not downloaded yet.
    """
    name = str(name_or_path)
    if parse_name(name) is not None:
        return cached_file(name)
    if name in PUBLIC_WEIGHTS:
        path = cached_path(name)
        if not path.is_file():
            raise WeightsError(
                f"{name}: these public weights are not in {cache_folder()} yet; fetch them with: "
                f"mobilevision weights download {name}"
            )
        return path
    path = Path(name_or_path).expanduser()
    # TensorFlow calls a checkpoint by what the names of its files have in common.
    index = path.with_name(_OF_A_CHECKPOINT.sub("", path.name) + ".index")
    if index.is_file() and (not path.is_file() or _OF_A_CHECKPOINT.search(path.name)):
        return index
    if not path.is_file():
        raise WeightsError(
            f"no weights at {path}: give the path of an .npz, .tflite, .h5, .safetensors, .pth, "
            f".ckpt, .pb or .index file or a public name; {_KNOWN_NAMES}, and hf:OWNER/REPOSITORY"
        )
    return path


_KNOWN_NAMES = f"the names are {', '.join(PUBLIC_WEIGHTS)}"


FILE_NAME = "model.safetensors"
_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_OF_A_CHECKPOINT = re.compile(r"\.(?:data-\d{5}-of-\d{5}|meta)$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubName(NamedTuple):
    """A repository of the hub, ``owner/name``, at a branch, tag or commit."""

    repository: str
    revision: str


def parse_name(name: str) -> HubName | None:
    """Split a name into its parts; None where it does not start with ``hf:``.

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
    """Return the file of a name that was downloaded before, else raise a WeightsError."""
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
    """Download ``hf:OWNER/REPOSITORY[@REVISION]``, with a progress bar on stderr, and verify it.

    Without ``sha256`` the sum is that of the hub for this revision, which guards against damage
    on the way, not against another file at the hub. Returns the file in the hub's cache
    and its sha256.

    Raises:
        WeightsError: The download fails, there is no sum to compare with, or it differs; the file
            is then removed.
    """
    parsed, hub = _parsed(name), _library()
    try:
        metadata = hub.get_hf_file_metadata(
            hub.hf_hub_url(parsed.repository, FILE_NAME, revision=parsed.revision)
        )
        stated = metadata.etag or ""
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
    return import_extra("huggingface_hub", "'mobilevision[hub]'", "a name with hf:")
