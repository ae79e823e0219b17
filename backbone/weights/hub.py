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
    """One published network: its file or files, and what is known of it."""

    url: str
    """The archive that holds it, or the file itself."""
    sha256: str
    """Hash of what is at the address, hexadecimal."""
    license: str
    """What its publisher states; ``unstated`` where that is nothing."""
    source: str
    """Description and publisher."""
    data: str
    """What it was trained on."""
    job: str = "classification"
    """What the network does: ``classification``, ``detection``, ``face_detection`` or
    ``face_embedding``."""
    member: str = ""
    """The file inside the archive; empty where there is none."""
    width_mult: float | None = None
    """The width multiplier of a MobileNet; None for other networks."""
    network: str = ""
    """What runs the file as it is, see ``heads/face_embedding/external_networks.py``; empty where
    it is converted into a checkpoint."""
    bin_sha256: str = ""
    """Hash of the file of the same address but for its suffix, ``.bin``; empty where there is
    none."""
    measured: str = ""
    """The figure that was measured here; empty where none was."""
    published: str = ""
    """The publisher's figure."""
    terms: str = ""
    """What the license means; not empty where it has to be accepted before the download."""


_TENSORFLOW = "https://storage.googleapis.com/download.tensorflow.org/models"
_FPN = "ssd_mobilenet_v1_fpn_shared_box_predictor_640x640_coco14_sync_2018_07_03"
_FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
_OF_FACENET = (
    "facenet-pytorch states MIT for its code and nothing for the weights. The photos that they "
    "were trained on were offered for research alone."
)

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
# - FaceNet of VGGFace2: at least four projects on GitHub, each with the address and the sum.
# The addresses of RetinaFace, MobileFaceNet and SFace name a commit, so what is there cannot
# change; SFace's sum is the one in OpenCV's own repository, which keeps the file in Git LFS.
# Those of the frozen graphs stand in one project alone, openvinotoolkit/open_model_zoo
# (models/public/ssd_mobilenet_v1_coco/model.yml and ..._fpn_coco/model.yml); so does that of
# FaceNet of CASIA-WebFace.
PUBLIC_WEIGHTS: dict[str, PublicWeights] = {
    "mobilenet_v1_1.0_224": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz",
        sha256="1ccb74dbd9c5f7aea879120614e91617db9534bdfaa53dfea54b7c14162e126b",
        member="mobilenet_v1_1.0_224.tflite",
        width_mult=1.0, license="Apache-2.0", source="TensorFlow: ImageNet classifier, float32",
        data="ImageNet", published="top-1 0.709 on ImageNet's validation images",
    ),
    "mobilenet_v1_1.0_224_quant": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_08_02/mobilenet_v1_1.0_224_quant.tgz",
        sha256="d32432d28673a936b2d6281ab0600c71cf7226dfe4cdcef3012555f691744166",
        member="mobilenet_v1_1.0_224_quant.tflite",
        width_mult=1.0, license="Apache-2.0", source="TensorFlow: ImageNet classifier, 8-bit",
        data="ImageNet", measured="top-1 0.790 on 400 of ImageNet's validation images",
        published="top-1 0.701 on all of them",
    ),
    "mobilenet_v1_0.5_128_quant": PublicWeights(
        url=f"{_TENSORFLOW}/mobilenet_v1_2018_08_02/mobilenet_v1_0.5_128_quant.tgz",
        sha256="0a5b18571d3df4d85a5ac6cb5be829d141dd5855243ea04422ca7d19f730a506",
        member="mobilenet_v1_0.5_128_quant.tflite",
        width_mult=0.5, license="Apache-2.0", source="TensorFlow: ImageNet classifier, 8-bit",
        data="ImageNet", published="top-1 0.549 on ImageNet's validation images",
    ),
    "ssd_mobilenet_v1_0.75_coco_quant": PublicWeights(
        url=f"{_TENSORFLOW}/tflite/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.zip",
        sha256="a809cd290b4d6a2e8a9d5dad076e0bd695b8091974e0eed1052b480b2f21b6dc",
        member="detect.tflite",
        width_mult=0.75, license="Apache-2.0", source="TensorFlow: COCO detector SSD-300, 8-bit",
        job="detection",
        data="COCO", measured="AP 0.196 on 188 images of COCO val2017",
    ),
    "ssd_mobilenet_v1_1.0_coco": PublicWeights(
        url=f"{_TENSORFLOW}/object_detection/ssd_mobilenet_v1_coco_2018_01_28.tar.gz",
        sha256="8788f89108519fd1102b8a5c2ac861cf6d86603571b6ce5bbd1c245b7fe005e3",
        member="ssd_mobilenet_v1_coco_2018_01_28/frozen_inference_graph.pb",
        width_mult=1.0, license="Apache-2.0", source="TensorFlow: COCO detector SSD-300, float32",
        job="detection",
        data="COCO", published="AP 0.21 on 8,000 images of COCO val2014",
    ),
    "ssd_mobilenet_v1_1.0_fpn_coco": PublicWeights(
        url=f"{_TENSORFLOW}/object_detection/{_FPN}.tar.gz",
        sha256="e8886ece7f3a0993678440305a98f5be649a90b314c95ca94565c23ed20b1fb0",
        member=f"{_FPN}/frozen_inference_graph.pb",
        width_mult=1.0, license="Apache-2.0", source="TensorFlow: COCO detector FPN-640, float32",
        job="detection",
        data="COCO", published="AP 0.32 on 8,000 images of COCO val2014",
    ),
    "retinaface_mobilenet_0.25": PublicWeights(
        url="https://github.com/sglee487/Pytorch_Retinaface/raw/"
            "d305e87397d10fd46ee3a8a7842806bd318b9778/weights/mobilenet0.25_Final.pth",
        sha256="7c417d4a43c5e2100ef40c2fbd2177d2fd0e5090d8e87c0fa31806cfb895c12f",
        width_mult=0.25, license="MIT", source="Pytorch_Retinaface: boxes and five landmarks",
        job="face_detection", data="WIDER FACE",
        measured="all 209 faces that an independent pass finds on 60 photos, within 0.005 px",
        published="AP 0.906 easy, 0.879 medium, 0.740 hard on WIDER FACE's validation images",
    ),
    "mobilefacenet": PublicWeights(
        url="https://github.com/honghuCode/mobileFacenet-ncnn/raw/"
            "f0d060cc1c0a3d027ecbb43904c525e4713a91b8/mobilenet_ncnn.param",
        sha256="bb1c1e5f8a6ea8f6ac0f738528a0418911b6208ddb2f8b27667d33b0f37bec1b",
        bin_sha256="1681b1e4b4565147f8fdb555db514f005b25bd9eff8f5c93bf12c727b1f4ea11",
        job="face_embedding", network="ncnn", license="unstated",
        source="mobileFacenet-ncnn: MobileFaceNet, 128 numbers",
        data="not stated (insightface's MobileFaceNets: MS-Celeb-1M, which was withdrawn)",
        measured="0.9940 ± 0.0034 on LFW, 10 folds; TAR 0.9905 at FAR 1e-3",
        terms="Its publisher states no license, which gives nobody a right to use, change or pass "
              "on the file; ask the publisher before you do more than try it.",
    ),
    "sface": PublicWeights(
        url="https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/"
            "models/face_recognition_sface/face_recognition_sface_2021dec.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        job="face_embedding", network="onnx", license="Apache-2.0",
        source="OpenCV Zoo: SFace, 128 numbers",
        data="not stated (its authors use CASIA-WebFace, VGGFace2 and MS1MV2)",
        published="0.9940 on LFW",
    ),
    "facenet:vggface2": PublicWeights(
        url=f"{_FACENET}/20180402-114759-vggface2.pt",
        sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        job="face_embedding", network="facenet", license="unstated",
        source="facenet-pytorch: FaceNet, 512 numbers", data="VGGFace2",
        published="0.9965 on LFW", terms=_OF_FACENET,
    ),
    "facenet:casia-webface": PublicWeights(
        url=f"{_FACENET}/20180408-102900-casia-webface.pt",
        sha256="7a67afdbbc995fce5e10128675e318799a70698c2f433ba75dd7eb9a2f096e7d",
        job="face_embedding", network="facenet", license="unstated",
        source="facenet-pytorch: FaceNet, 512 numbers", data="CASIA-WebFace",
        published="0.9905 on LFW", terms=_OF_FACENET,
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
    # Windows takes no colon in the name of a file.
    return cache_folder() / f"{name.replace(':', '_')}{Path(weights.member or weights.url).suffix}"


def existing_file(name: str) -> Path | None:
    """Return the file of a public name, if it was downloaded; FaceNet's also by facenet-pytorch."""
    path, weights = cached_path(name), find_public(name)
    if path.is_file():
        return path
    if weights.network != "facenet":
        return None
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.environ.get("TORCH_HOME") or shared).expanduser()
    theirs = home / "checkpoints" / weights.url.rpartition("/")[2]
    return theirs if theirs.is_file() and sha256_of(theirs) == weights.sha256 else None


def resolve_weights(name_or_path: str | Path) -> Path:
    """Return the existing file of a public name, of ``hf:OWNER/REPOSITORY[@REVISION]`` or a path.

    Raises:
        WeightsError: There is no such name or file, or the weights were not downloaded yet.
    """
    name = str(name_or_path)
    if parse_name(name) is not None:
        return cached_file(name)
    if name in PUBLIC_WEIGHTS:
        if PUBLIC_WEIGHTS[name].network:
            raise WeightsError(f"{name}: {NOT_CONVERTED}")
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


NOT_CONVERTED = (
    "is a network of another project, which FaceEmbedder.load and the option --model of embed, "
    "verify and gallery run as it is; it cannot be converted, trained on or exported"
)
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
