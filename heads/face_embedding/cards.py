"""Cards of face networks of other projects: what goes in, and what was measured. Free of torch.

A network file does not say in which order it takes the colors, in which range, and how the face is
cut out; a wrong answer gives embeddings that look right and recognize worse. So known files are
told by their hash, never by their name, and others by a JSON file beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from ...backbone.weights.hub import PUBLIC_WEIGHTS, sha256_of
from ...datasets.errors import DataError
from ...datasets.files import read_json
from .threshold import Threshold

Order = Literal["rgb", "bgr"]
Crop = Literal["arcface", "box"]
_SIZES = range(16, 1025)


@dataclass(frozen=True)
class Card:
    """What a face network takes, and what is known of it.

    Attributes:
        size: Side in px of the square input; None takes that of the network, or 112 where it is
            free.
        pixel_mean: Subtracted from the pixels, which are in [0, 255]; 0 where the network does that
            itself.
        pixel_std: Then divided by, above 0.
        order: Whether red or blue comes first.
        crop: ``arcface`` aligns faces by five landmarks to ArcFace's template; ``box`` cuts out the
            detector's box, without turning it, and stretches it to the size.
        margin_px: Of ``box``: px of the crop that lie outside the box, both sides together.
        license: License of the weights.
        source: Description and publisher.
        verification: What was measured, as in checkpoints; see ``Threshold``.
    """

    size: int | None = None
    pixel_mean: float = 127.5
    pixel_std: float = 127.5
    order: Order = "rgb"
    crop: Crop = "arcface"
    margin_px: int = 0
    license: str = "unknown"
    source: str = ""
    verification: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the JSON file of a card; what it leaves out is as ArcFace has it.

        Raises:
            DataError: It cannot be read, has an unknown key, or a value of another type or range.
        """
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: a card is a JSON object, not a {type(content).__name__}")
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise DataError(
                f"{path}: has the unknown key {', '.join(unknown)}. A card has some of "
                f"{', '.join(known)}."
            )
        for name, what in _faults(content):
            raise DataError(f"{path}: {name} is {content[name]!r}, but it must be {what}")
        try:
            Threshold.from_metadata(content.get("verification"))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        return cls(**content)


def _faults(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the keys of wrong values, and what they must be."""

    def number(value: Any) -> bool:
        return type(value) in (int, float)

    wanted = {
        "size": (lambda v: type(v) is int and v in _SIZES, f"{_SIZES[0]} to {_SIZES[-1]} px"),
        "pixel_mean": (lambda v: number(v) and 0 <= v <= 255, "a number from 0 to 255"),
        "pixel_std": (lambda v: number(v) and 0 < v <= 255, "a number above 0, up to 255"),
        "order": (lambda v: v in get_args(Order), "rgb or bgr"),
        "crop": (lambda v: v in get_args(Crop), "arcface or box"),
        "margin_px": (lambda v: type(v) is int and 0 <= v < 16, "0 to 15 px"),
        "license": (lambda v: isinstance(v, str), "text"),
        "source": (lambda v: isinstance(v, str), "text"),
        "verification": (lambda v: isinstance(v, dict), "an object"),
    }
    return [(name, wanted[name][1]) for name in content if not wanted[name][0](content[name])]


def card_path(file: Path) -> Path:
    """Return the file of a network's card: the network's, with ``.json`` after it."""
    return file.with_name(f"{file.name}.json")


def known_card(files: Sequence[Path]) -> Card | None:
    """Return the built-in card of a network by the sums of its files; None for an unknown one."""
    return KNOWN_CARDS.get(tuple(sha256_of(file) for file in files))


FACENET = Card(size=160, pixel_std=128.0, crop="box", margin_px=14)
"""What FaceNet of facenet-pytorch takes: the standardization of its training, and the crop with
which its authors measure it on LFW (``examples/lfw_evaluate.ipynb``: MTCNN, margin 14)."""
_OWN_RANGE = Card(pixel_mean=0.0, pixel_std=1.0)
_MOBILEFACENET = replace(
    _OWN_RANGE,
    verification={
        "threshold": 0.315, "far": 0.000974, "dataset": "LFW (groups: CelebA)",
        "impostor_pairs": 29_640_749, "accuracy": 0.9940,
        "groups": {
            name: dict(zip(("faces", "people", "genuine", "impostors", "far", "frr"), rates,
                           strict=True))
            for name, rates in {
                "all": (1807, 82, 21917, 1609804, 0.0015, 0.0858),
                "Male: yes": (630, 38, 6585, 191550, 0.0009, 0.0826),
                "Male: no": (1177, 51, 14959, 677117, 0.0028, 0.0816),
                "Young: yes": (1468, 70, 17491, 1059287, 0.0020, 0.0759),
                "Young: no": (339, 26, 2777, 54514, 0.0003, 0.0900),
            }.items()
        },
    },
)  # fmt: skip
"""Measured in docs/results.md. LFW's faces were at hand aligned by another detector alone."""


def _public(name: str, card: Card) -> tuple[tuple[str, ...], Card]:
    weights = PUBLIC_WEIGHTS[name]
    sums = tuple(filter(None, [weights.sha256, weights.bin_sha256]))
    return sums, replace(card, license=weights.license, source=weights.source)


def _insightface(name: str, sha256: str) -> tuple[tuple[str, ...], Card]:
    return (sha256,), Card(license="non-commercial", source=f"insightface: {name}, WebFace600K")


# insightface's own code (python-package/insightface/model_zoo/arcface_onnx.py) gives its networks
# RGB, and takes 127.5 off unless the graph begins with a subtraction and a multiplication, as those
# exported from MXNet do, MobileFaceNet and SFace among them. OpenCV, too, gives SFace RGB in
# [0, 255] (modules/objdetect/src/face_recognize.cpp: blobFromImage with swapRB=true).
KNOWN_CARDS: dict[tuple[str, ...], Card] = dict([
    _public("mobilefacenet", _MOBILEFACENET),
    _public("sface", _OWN_RANGE),
    _public("facenet:vggface2", FACENET),
    _public("facenet:casia-webface", FACENET),
    _insightface(
        "w600k_mbf", "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f"
    ),
    _insightface(
        "w600k_r50", "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"
    ),
])  # fmt: skip
"""sha256 of each file of a network -> its card."""
