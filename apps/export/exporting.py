"""``mobilevision export``: write a checkpoint as a file, and compare the two."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from ...datasets.errors import DataError
from ...datasets.files import size_of
from ..inference.runtime import EXPORTED_SUFFIXES, ModelMetadata, open_runtime
from .export_module import Deployable, open_deployable
from .exported_program import written_metadata
from .formats import FIXED_SHAPES, ExportOptions, OwnMetadata, open_format, with_fixed_shapes

_IMAGE_HW = (480, 640)
_COARSE_HW = (12, 16)


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
    found = differences(deployable, out, options) if out.suffix in EXPORTED_SUFFIXES else None
    metadata = written_metadata(deployable, options)
    if isinstance(chosen, OwnMetadata):
        metadata = chosen.metadata(deployable)
    return Exported(out, metadata, size_of(out), notes, found)


def differences(deployable: Deployable, path: Path, options: ExportOptions) -> dict[str, float]:
    """Return the largest difference of each output between a file and eager torch."""
    size_hw = _IMAGE_HW if options.any_image else deployable.metadata.size_hw
    images = np.stack([made_up_image(size_hw)] * (options.batch or 1))
    with torch.inference_mode():
        outputs = deployable.module(torch.from_numpy(images))
    names = deployable.metadata.outputs
    expected = {name: value.numpy() for name, value in zip(names, outputs, strict=True)}
    return largest_differences(expected, open_runtime(path, "cpu")(images))


def made_up_image(size_hw: tuple[int, int]) -> np.ndarray:
    """Generate an image of smooth patches, (H, W, 3) uint8, which is always the same."""
    coarse = np.random.default_rng(0).integers(0, 256, (*_COARSE_HW, 3), dtype=np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def largest_differences(
    expected: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return the largest absolute difference of each output.

    Detections with almost equal scores may change places; so each expected box is compared with the
    nearest found box of its class, and the labels count expected boxes without any.
    """
    if "boxes" not in expected:
        return {name: _largest(expected[name] - found[name]) for name in expected}
    boxes, strays = 0.0, 0
    for image in range(len(expected["labels"])):
        there = expected["labels"][image] >= 0
        same = expected["labels"][image][there][:, None] == found["labels"][image][None, :]
        apart = np.abs(expected["boxes"][image][there][:, None] - found["boxes"][image][None])
        apart = apart.max(axis=2)
        nearest = np.where(same, apart, np.inf).min(axis=1, initial=np.inf)
        strays += int(np.isinf(nearest).sum())
        boxes = max(boxes, _largest(nearest[np.isfinite(nearest)]))
    scores = _largest(expected["scores"] - found["scores"])
    return {"boxes": boxes, "scores": scores, "labels": float(strays)}


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
