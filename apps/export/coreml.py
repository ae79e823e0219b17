"""Core ML files: folders ``.mlpackage`` whose network takes one image of its own size."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, default_decompositions

from ...datasets.errors import DataError
from ...datasets.files import replaced_folder
from ..inference.runtime import AS_THEY_ARE, ModelMetadata
from .export_module import UNKNOWN, Deployable, DeployedNetwork
from .formats import ExportOptions
from .nms import DECOMPOSITIONS, roi_align

INPUT = "image"
_TYPES = {"labels": np.int32}
"""Outputs that are not float32; Core ML has no int64."""
_DEBUG_FILE = "executorch_debug_handle_mapping.json"
"""A file that coremltools writes for the profiler of ExecuTorch."""
_ATEN = torch.ops.aten
_KEPT = (_ATEN.zeros_like.default, _ATEN.grid_sampler.default)
"""Not decomposed: zeros keep their type that way, and coremltools lacks the core sampler."""


class ImageNetwork(nn.Module):
    """A deployed network with the input that Core ML makes of an image."""

    def __init__(self, deployed: DeployedNetwork) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for (1, 3, H, W) float32 from 0 to 255, H and W the network's."""
        return self.deployed.adapted(image, self.deployed.size_hw)


class CoreMlFormat:
    """Folders for Core ML."""

    suffix = ".mlpackage"

    def metadata(self, deployable: Deployable) -> ModelMetadata:
        """See ``OwnMetadata``: an image as input, and Core ML's types."""
        metadata = deployable.metadata
        height, width = metadata.size_hw
        image = f"an RGB image of {height}x{width} px"
        preparation = f"{metadata.preparation}; one of them as {image}"
        if metadata.preparation == AS_THEY_ARE:
            preparation = f"{image}, resized to that before"
        outputs = {name: text.replace("int64", "int32") for name, text in metadata.outputs.items()}
        return replace(metadata, preparation=preparation, outputs=outputs)

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        if options.batch not in (None, 1):
            raise DataError(
                f"--batch {options.batch}: a Core ML file takes one image a call. Leave it out; "
                "for several at once there is MLModel.predictions(fromBatch:)."
            )
        with quiet_coremltools() as ct:
            try:
                model = convert(ct, deployable)
            except NotImplementedError as error:
                raise DataError(
                    f"--format coreml: coremltools {ct.__version__} cannot convert this network: "
                    f"{error}. --format onnx may."
                ) from error
            describe(model, self.metadata(deployable))
            with replaced_folder(out) as temporary:
                model.save(str(temporary))
                (temporary / _DEBUG_FILE).unlink(missing_ok=True)
            types = {"layers in": "float16", "what follows them in": "float32"}
            return {"coremltools": ct.__version__, "for": "iOS 16 and macOS 13", **types}


@contextmanager
def quiet_coremltools() -> Iterator[Any]:
    """Import coremltools without its progress bars and its warnings about every newer torch.

    Raises:
        DataError: It is not installed.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stderr(nothing):
        try:
            import coremltools
        except ImportError as error:
            advice = "pip install 'mobilevision[coreml]'"
            raise DataError(f"--format coreml needs the package {error.name}: {advice}") from error
        yield coremltools


def image_program(deployable: Deployable) -> ExportedProgram:
    """Trace a network with an image as input, in operators that coremltools knows."""
    network = ImageNetwork(deployable.module).eval()
    example = torch.zeros(1, 3, *deployable.metadata.size_hw)
    with torch.no_grad():
        network(example)  # computes and caches the anchors, so that they are constants
        program = torch.export.export(network, (example,))
        return program.run_decompositions(coreml_operators())


def convert(ct: Any, deployable: Deployable) -> Any:
    """Convert a network to an ``MLModel``, without loading it."""
    height, width = deployable.metadata.size_hw
    return ct.convert(
        image_program(deployable),
        convert_to="mlprogram",
        inputs=[ct.ImageType(INPUT, shape=(1, 3, height, width), color_layout=ct.colorlayout.RGB)],
        outputs=[
            ct.TensorType(name, dtype=_TYPES.get(name, np.float32))
            for name in deployable.metadata.outputs
        ],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.transform.FP16ComputePrecision(op_selector=selects_layers()),
        skip_model_load=True,
    )


def selects_layers() -> Callable[[Any], bool]:
    """Return a function that selects operations for float16: layers and everything before them.

    Boxes and their areas have to stay in float32: at 300 px, float16 has steps of a quarter of a
    pixel and cannot represent areas. The same holds for sampling features at the places of boxes.
    """
    chosen: set[str] = set()
    blocks: list[Any] = []

    def select(operation: Any) -> bool:
        if not blocks:  # for the first operation, before any is changed
            blocks.append(operation.enclosing_block)
            for each in reversed(blocks[0].operations):
                readers = [reader for value in each.outputs for reader in value.child_ops]
                leads_on = any(reader.name in chosen for reader in readers)
                if is_layer(each) or (leads_on and each.op_type != "resample"):
                    chosen.add(each.name)
        return operation.name in chosen

    return select


def is_layer(operation: Any) -> bool:
    """Return whether an operation has weights; linear layers without bias are matrix products."""
    if operation.op_type == "matmul":
        return operation.inputs["y"].val is not None
    return operation.op_type in {"conv", "linear"}


def describe(model: Any, metadata: ModelMetadata) -> None:
    """Store the metadata where Xcode and Core ML's own tools show it, and all of it as JSON."""
    height, width = metadata.size_hw
    model.license = metadata.license
    model.author = str((metadata.provenance.get("weights") or {}).get("source") or UNKNOWN)
    model.short_description = f"{metadata.job} at {height}x{width} px, by mobilevision"
    model.version = str(metadata.provenance.get("mobilevision", UNKNOWN))
    model.input_description[INPUT] = metadata.preparation
    for name, meaning in metadata.outputs.items():
        model.output_description[name] = meaning
    model.user_defined_metadata.update(metadata.to_strings())


def coreml_operators() -> dict[Any, Any]:
    """Return the decompositions to the operators that coremltools 9 supports.

    That is torch's core set, except for those that coremltools lacks or converts incorrectly.
    """
    table = default_decompositions()
    for operator in _KEPT:
        table.pop(operator)
    return {
        **table,
        **DECOMPOSITIONS,
        _ATEN.alias.default: lambda values: values,
        _ATEN.arange.start_step: whole_numbers,
        _ATEN.floor_divide.default: whole_quotient,
        _ATEN.gather.default: gather,
        torch.ops.torchvision.roi_align.default: roi_align,
    }


def whole_numbers(
    start: float, end: float, step: float = 1, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """Decompose ``torch.arange``, which coremltools makes integer whatever the type."""
    if dtype is None or not dtype.is_floating_point:
        return NotImplemented  # as it is
    return torch.arange(start, end, step, dtype=torch.int64).to(dtype)


def gather(values: Tensor, dim: int, index: Tensor, sparse_grad: bool = False) -> Tensor:  # noqa: ARG001
    """Decompose ``torch.gather`` of booleans, as Core ML has it only for numbers."""
    if values.dtype != torch.bool:
        return NotImplemented  # as it is
    return values.to(torch.int32).gather(dim, index).to(torch.bool)


def whole_quotient(left: Tensor, right: Tensor | int) -> Tensor:
    """Decompose ``//`` of integers from 0 to 2 ** 24, which coremltools would make floats."""
    if left.dtype.is_floating_point:
        return NotImplemented  # as it is
    return (left.to(torch.float32) / right).to(left.dtype)
