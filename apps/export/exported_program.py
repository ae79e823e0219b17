"""Files of ``torch.export``: for torch itself, in Python or compiled ahead of time for C++."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ...datasets.files import write_atomically
from ..inference.runtime import AS_THEY_ARE, ModelMetadata
from .export_module import Deployable
from .formats import ExportOptions
from .nms import DECOMPOSITIONS


def plain_program(deployable: Deployable, options: ExportOptions) -> ExportedProgram:
    """Trace a network into torch's own operators alone, none of ours."""
    # Weights in channels_last order are taken for parts of others, and XNNPACK refuses them.
    module = copy.deepcopy(deployable.module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = replace(deployable, module=module).program(options.batch, options.any_image)
    return program.run_decompositions({**DECOMPOSITIONS})


def written_metadata(deployable: Deployable, options: ExportOptions) -> ModelMetadata:
    """What a file says, with the size that images must have where they are not resized inside."""
    metadata = deployable.metadata
    if options.any_image:
        return metadata
    height, width = metadata.size_hw
    said = f"{metadata.preparation}; resized to {height}x{width} px before"
    if metadata.preparation == AS_THEY_ARE:
        said = f"uint8 RGB images (batch, {height}, {width}, 3), resized to that before"
    return replace(metadata, preparation=said)


class ExportedProgramFormat:
    """Archives of ``torch.export.save``; the metadata is its extra files."""

    suffix = ".pt2"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        program = plain_program(deployable, options)
        entries = written_metadata(deployable, options).to_strings()
        buffer = io.BytesIO()  # torch ends the process where a file cannot be written
        torch.export.save(program, buffer, extra_files=entries)  # type: ignore[arg-type]
        write_atomically(out, buffer.getvalue())
        return {"torch": torch.__version__}
