"""Import of published weights as checkpoints; the content of a file decides its job."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..backbone.errors import WeightsError
from ..backbone.mobilenet import MobileNetV1
from ..backbone.weights.converters import PublicModel
from ..backbone.weights.hub import PUBLIC_WEIGHTS, commit_of, parse_name, resolve_weights, sha256_of
from ..backbone.weights.loading import imagenet_names, read_public
from ..datasets.errors import DataError
from ..datasets.files import read_text
from ..heads.checkpoint import Plan, write_checkpoint
from ..heads.classification.model import Classifier
from ..heads.classification.task import ClassificationTask
from ..heads.detection.task import DetectionTask
from ..heads.detection.weights import is_detector, read_detector
from ..heads.face_detection.task import FaceDetectionTask
from ..heads.face_detection.weights import is_retinaface, read_retinaface
from ..heads.task import ImageTask

UNKNOWN_LICENSE = "unknown"
_BACKGROUND = "background"
_TIMM_REPOSITORY = "timm/mobilenetv1_"


class Imported(NamedTuple):
    """The result of ``import_weights``."""

    path: Path
    job: str
    """``detection``, ``face_detection`` or ``classification``."""
    params: int
    categories: dict[int, str]
    """Category id -> name."""
    provenance: dict[str, Any]
    """As stored in the checkpoint."""


_KINDS: dict[type[ImageTask], str] = {
    ClassificationTask: "classification",
    DetectionTask: "detection",
    FaceDetectionTask: "face_detection",
}


class _Job(NamedTuple):
    """A network and the other content of its checkpoint."""

    task: type[ImageTask]
    plan: Plan
    network: Any
    categories: dict[int, str]
    size_hw: tuple[int, int]
    metadata: dict[str, Any]
    """Stored properties of the conversion."""


def import_weights(
    source: str,
    out: Path,
    *,
    sha256: str | None = None,
    size_hw: tuple[int, int] | None = None,
    labels: Path | None = None,
    license: str | None = None,
) -> Imported:
    """Convert published weights to a checkpoint of this package.

    Args:
        source: A file of a format of ``backbone.weights``, or a public name that was downloaded.
        out: The checkpoint to write, ``.ckpt``.
        sha256: Expected hash of the file.
        size_hw: Input size in pixels; None takes that of the file or its name.
        labels: Names of the file's classes, one a line; None takes those of ImageNet or COCO if
            the number of classes is theirs.
        license: License of the weights; None takes the known one of the source.

    Raises:
        WeightsError: There are no such weights, or they do not fit.
        DataError: The labels or the name of the output do not fit.
        OSError: The output cannot be written.
    """
    if out.suffix != ".ckpt":
        raise DataError(f"{out}: checkpoints are called .ckpt; name it {out.with_suffix('.ckpt')}")
    path = resolve_weights(source)
    found = sha256_of(path)
    if sha256 is not None and sha256.lower() != found:
        raise WeightsError(f"{path}: its sha256 is {found}, not {sha256}; it is another file")
    names = None if labels is None else read_labels(labels)
    if is_retinaface(path):
        job = _Job(FaceDetectionTask, *read_retinaface(path, size_hw))
    elif is_detector(path):
        job = _Job(DetectionTask, *read_detector(path, size_hw, names))
    else:
        job = _classifier(read_public(path), size_hw, names)
    provenance = {
        "source": source,
        "file": path.name,
        "sha256": found,
        "commit": commit_of(path),
        "license": license or _known_license(source, found),
        **job.metadata,
        "preprocess": {
            "size_hw": list(job.size_hw),
            "pixel_mean": _plain(job.network.pixel_mean),
            "pixel_std": job.network.pixel_std,
        },
    }
    write_checkpoint(out, job.task, job.plan, job.network, job.categories, job.size_hw, provenance)
    params = sum(parameter.numel() for parameter in job.network.parameters())
    return Imported(out, _KINDS[job.task], params, job.categories, provenance)


def read_labels(path: Path) -> list[str]:
    """Read names of classes, one a line; a DataError if the file has none or cannot be read."""
    fix = "Write one name a line, in UTF-8."
    names = read_text(path, "text file of labels", fix).splitlines()
    if not names or names[0].replace(" ", "").startswith(
        "item{"
    ):  # a label map of TensorFlow's, in any layout
        raise DataError(f"{path}: is empty or a label map (.pbtxt). {fix}")
    return names


def _classifier(
    public: PublicModel, size_hw: tuple[int, int] | None, names: list[str] | None
) -> _Job:
    path = public.path
    if public.classifier is None:
        raise WeightsError(
            f"{path}: holds only a backbone, without a classifier, and needs no import: give the "
            "file to a recipe as model.weights, or to MobileNetV1.from_pretrained"
        )
    num_classes = public.head_arguments["num_classes"]
    categories = _classifier_categories(path, num_classes, names)
    size_hw = size_hw or public.size_hw
    if size_hw is None:
        raise WeightsError(
            f"{path}: the input size is not known from the file or its name; give it, for instance "
            "--size 224 224"
        )
    backbone = Plan(MobileNetV1, public.backbone_arguments)
    pixels = {"pixel_mean": public.pixel_mean, "pixel_std": public.pixel_std}
    plan = Plan(Classifier, {"backbone": backbone, **public.head_arguments, **pixels})
    network = plan.build()
    network.load_state_dict(public.classifier.state_dict())
    metadata = {
        "kind": public.kind,
        "imported": "backbone and classifier",
        "folded": public.folded,
        "notes": list(public.notes),
    }
    return _Job(ClassificationTask, plan, network.eval(), categories, size_hw, metadata)


def _classifier_categories(path: Path, num_classes: int, names: list[str] | None) -> dict[int, str]:
    if names is None:
        if num_classes != 1000:
            raise WeightsError(
                f"{path}: a classifier of {num_classes} classes, not of ImageNet's 1,000; name "
                "them with --labels, one a line"
            )
        names = imagenet_names()
    if len(names) == num_classes + 1 and names[0] == _BACKGROUND:
        names = names[1:]
    if len(names) != num_classes:
        need = f"the classifier of {path} has {num_classes} classes"
        raise DataError(f"--labels has {len(names)} lines, {need}; give one name a line")
    return dict(enumerate(names))


def _known_license(source: str, sha256: str) -> str:
    for public, weights in PUBLIC_WEIGHTS.items():
        if source == public or (not weights.member and sha256 == weights.sha256):
            return weights.license
    name = parse_name(source)
    if name is not None and name.repository.startswith(_TIMM_REPOSITORY):
        return "Apache-2.0"  # of all three, in timm's own configuration
    return UNKNOWN_LICENSE


_NEXT = {
    "detection": "mobilevision detect IMAGES --model {path} --out found",
    "face_detection": "mobilevision detect IMAGES --model {path} --out found",
    "classification": "mobilevision cost --ckpt {path}",
}
_FOLDED = (
    "Batch normalization is folded in: evaluation is exact, and a training that starts from it "
    "(model.weights) calibrates it first."
)


def format_card(imported: Imported) -> str:
    """Format a summary of an import, with a next command."""
    provenance = imported.provenance
    preprocess = provenance["preprocess"]
    height, width = preprocess["size_hw"]
    revision = f" at {provenance['commit']}" if provenance["commit"] else ""
    rows = {
        "what": f"{provenance['kind']}: {provenance['imported']}",
        "parameters": f"{imported.params:,}",
        "classes": str(len(imported.categories)),
        "pictures": f"{height}x{width}, (pixel - {_numbers(preprocess['pixel_mean'])}) / "
        f"{preprocess['pixel_std']:g}",
        "source": f"{provenance['source']}{revision}",
        "sha256": provenance["sha256"],
        "license": provenance["license"],
    }
    lines = [str(imported.path), *(f"  {name:<12}{value}" for name, value in rows.items())]
    lines += [f"  {note}" for note in provenance["notes"]]
    if provenance["folded"]:
        lines.append(f"  {_FOLDED}")
    return "\n".join([*lines, "next:", f"  {_NEXT[imported.job].format(path=imported.path)}"])


def _plain(pixel_mean: float | Sequence[float]) -> float | list[float]:
    return list(pixel_mean) if isinstance(pixel_mean, Sequence) else pixel_mean


def _numbers(pixel_mean: float | list[float]) -> str:
    means = pixel_mean if isinstance(pixel_mean, list) else [pixel_mean]
    return ", ".join(f"{each:g}" for each in means)
