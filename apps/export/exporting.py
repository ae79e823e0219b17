"""``mobilevision export``: write a checkpoint as a file, and compare the two."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from ...datasets.errors import DataError
from ...datasets.files import size_of
from ...datasets.synthetic.faces import draw_face
from ..inference.runtime import EXPORTED_SUFFIXES, ModelMetadata, open_runtime
from .export_module import Deployable, open_deployable
from .exported_program import written_metadata
from .formats import FIXED_SHAPES, ExportOptions, OwnMetadata, open_format, with_fixed_shapes

_COARSE_HW = (12, 16)
_FACES = ((0.6, 0.05, 0.3), (0.3, 0.6, 0.1))
"""Side as a share of the image's shorter one, left and top as shares of width and height."""


class Exported(NamedTuple):
    """An exported file."""

    path: Path
    metadata: ModelMetadata
    size_bytes: int
    """Size of the file or folder."""
    notes: dict[str, Any]
    """Further properties, such as the version of the format."""
    differences: dict[str, float] | None
    """Output -> largest difference to eager torch on a test image; None if such files cannot run
    here."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    format_name: str,
    size_hw: tuple[int, int] | None = None,
    options: ExportOptions | None = None,
) -> Exported:
    """Write a checkpoint as a file of a format and compare its outputs with eager torch.

    The format is one of ``FORMATS``; without a size, the network's input has that of training.

    Raises:
        DataError: The checkpoint or the name of the output does not fit.
        OSError: The file cannot be written.
    """
    options = options or ExportOptions()
    if format_name in FIXED_SHAPES:
        options = with_fixed_shapes(options)
    chosen = open_format(format_name, options.int8 is not None)
    if out.suffix != chosen.suffix:
        name = out.with_suffix(chosen.suffix)
        raise DataError(f"{out}: files of {format_name} are called {chosen.suffix}; name it {name}")
    deployable = open_deployable(checkpoint, size_hw)
    notes = chosen.write(deployable, out, options)
    found = differences(deployable, out, options.batch) if out.suffix in EXPORTED_SUFFIXES else None
    metadata = written_metadata(deployable, options)
    if isinstance(chosen, OwnMetadata):
        metadata = chosen.metadata(deployable)
    return Exported(out, metadata, size_of(out), notes, found)


def differences(deployable: Deployable, path: Path, batch: int | None) -> dict[str, float]:
    """Return the largest difference of each output between a file and eager torch.

    The image has the network's size. Resized ones differ by a step of 255 in some pixels, since
    torch rounds its weights to 16 bits; two boxes with almost equal scores may then be exchanged.
    """
    images = np.stack([made_up_image(deployable.metadata.size_hw)] * (batch or 1))
    with torch.inference_mode():
        outputs = deployable.module(torch.from_numpy(images))
    names = deployable.metadata.outputs
    expected = {name: value.numpy() for name, value in zip(names, outputs, strict=True)}
    return largest_differences(expected, open_runtime(path, "cpu")(images))


def made_up_image(size_hw: tuple[int, int]) -> np.ndarray:
    """Generate an image of two drawn faces on smooth patches, (H, W, 3) uint8, always the same."""
    coarse = np.random.default_rng(0).integers(0, 256, (*_COARSE_HW, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    for share, left, top in _FACES:
        side = max(1, int(share * min(size_hw)))
        draw_face(image, int(left * size_hw[1]), int(top * size_hw[0]), side)
    return image


def largest_differences(
    expected: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return the largest absolute difference of each output.

    Detections with almost equal scores may change places; so the boxes and landmarks that are
    expected are compared with the nearest ones of their class, and the labels count those without
    any. Where nothing is expected, neither boxes nor landmarks have a difference.
    """
    if "boxes" not in expected:
        return {name: _largest(expected[name] - found[name]) for name in expected}
    names = [name for name in ("boxes", "landmarks") if name in expected]
    placed: dict[str, float] = {}
    strays = 0
    for image, labels in enumerate(expected["labels"]):
        apart = {name: _all_pairs(expected[name][image], found[name][image]) for name in names}
        same = labels[:, None] == found["labels"][image]
        total = np.where(same, sum(apart.values()), np.inf)
        for row in np.flatnonzero(labels >= 0):
            nearest = total[row].argmin()
            if same[row, nearest]:
                here = {name: float(apart[name][row, nearest]) for name in names}
                placed = {name: max(here[name], placed.get(name, 0.0)) for name in names}
            else:
                strays += 1
    scores = _largest(expected["scores"] - found["scores"])
    return {**placed, "scores": scores, "labels": float(strays)}


def _all_pairs(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the largest difference (N, M) of each of N boxes or landmarks to each of M others."""
    apart = np.abs(expected.reshape(len(expected), 1, -1) - found.reshape(len(found), -1))
    return apart.max(axis=2)


def _largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max(initial=0.0))


def format_exported(exported: Exported) -> str:
    """Format a summary of an exported file."""
    metadata = exported.metadata
    height, width = metadata.size_hw
    lines = [
        f"{exported.path}: {metadata.job}, {exported.size_bytes / 1e6:.1f} MB, works at "
        f"{height}x{width} px",
        f"  input     {metadata.preparation}",
    ]
    lines += [f"  {name:<9} {meaning}" for name, meaning in metadata.outputs.items()]
    lines.append("  " + ", ".join(f"{name} {value}" for name, value in exported.notes.items()))
    if exported.differences is None:
        lines.append("  not run: nothing installed here runs such files")
    else:
        values = ", ".join(f"{name} {value:.2g}" for name, value in exported.differences.items())
        lines.append(f"  largest difference to torch on a test image: {values}")
    return "\n".join(lines)
