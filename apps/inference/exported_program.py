"""Files of ``torch.export`` in torch."""

from pathlib import Path

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from ...datasets.errors import DataError
from .exported_program_archive import read_checked
from .metadata import ModelFacts
from .torch import choose_device


class ExportedProgramRuntime:
    """A file that ``mobilevision export --format exported-program`` wrote, ready to run.

    Args:
        path: The file.
        device: "auto" or a device of torch.
        threads: Threads within an operation, those of the whole process; None leaves them.

    Raises:
        DataError: There is no such device, or the file cannot be read, does not say what it is or
            holds what could run code.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self._device = choose_device(device)
        archive, entries = read_checked(path)
        self.facts = ModelFacts.from_strings(entries, str(path))
        try:
            program = torch.export.load(archive)
        except Exception as error:  # whatever an archive of another version meets
            raise DataError(
                f"{path}: torch {torch.__version__} cannot open it: {error}. Export the "
                "checkpoint again."
            ) from error
        if self._device.type != "cpu":
            program = move_to_device_pass(program, self._device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._module = program.module()
        self._names = list(self.facts.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        with torch.inference_mode():
            found = self._module(torch.from_numpy(images).to(self._device))
            return {
                name: output.cpu().numpy() for name, output in zip(self._names, found, strict=True)
            }
