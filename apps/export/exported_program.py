"""Files of ``torch.export``, for torch in Python or compiled ahead of time for C++."""

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
    """Trace a network into torch's own operators only."""
    # Weights in channels_last order are exported as views of others, which XNNPACK refuses.
    module = copy.deepcopy(deployable.module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = replace(deployable, module=module).program(options.batch, options.any_image)
    return program.run_decompositions({**DECOMPOSITIONS})


def written_metadata(deployable: Deployable, options: ExportOptions) -> ModelMetadata:
    """Return the metadata of a file, with the size of the images if the file does not resize."""
    metadata = deployable.metadata
    if options.any_image:
        return metadata
    height, width = metadata.size_hw
    preparation = f"{metadata.preparation}; resized to {height}x{width} px before"
    if metadata.preparation == AS_THEY_ARE:
        preparation = f"uint8 RGB images (batch, {height}, {width}, 3), resized to that before"
    return replace(metadata, preparation=preparation)


class ExportedProgramFormat:
    """Archives of ``torch.export.save``, with the metadata as extra files."""

    suffix = ".pt2"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        program = plain_program(deployable, options)
        entries = written_metadata(deployable, options).to_strings()
        buffer = io.BytesIO()  # torch ends the process if it cannot write a file
        torch.export.save(program, buffer, extra_files=entries)  # type: ignore[arg-type]
        write_atomically(out, buffer.getvalue())
        return {"torch": torch.__version__}
