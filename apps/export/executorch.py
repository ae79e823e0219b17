"""ExecuTorch files: the network for XNNPACK, decoding and NMS for ExecuTorch's kernels."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.xnnpack_config import XNNPartitionerConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from .export_module import Deployable
from .exported_program import plain_program, written_metadata
from .formats import ExportOptions, with_fixed_shapes
from .nms import ExportablePostProcess, roi_align

_MATMUL = torch.ops.aten.matmul.default


class ExecutorchFormat:
    """Programs of ExecuTorch; each entry of the metadata is a method that returns a string.

    Shapes are fixed: images have the network's size, and there are as many as ``batch`` says, one
    if it says nothing.
    """

    suffix = ".pte"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        options = with_fixed_shapes(options)
        program = plain_program(deployable, options).run_decompositions(
            {_MATMUL: matmul, torch.ops.torchvision.roi_align.default: roi_align}
        )
        refuse_foreign(program, out)
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner(configs=network_configs())],
            constant_methods=written_metadata(deployable, options).to_strings(),
        ).to_executorch()
        with replaced_atomically(out) as temporary, temporary.open("wb") as file:
            lowered.write_to_file(file)
        return {"executorch": version("executorch"), "batch": options.batch}


def refuse_foreign(program: ExportedProgram, out: Path) -> None:
    """Make sure that a network has no operations but torch's own.

    Raises:
        DataError: It has others, for which ExecuTorch has no kernels.
    """
    operators = {n.target for n in program.graph.nodes if isinstance(n.target, OpOverload)}
    foreign = sorted(str(each) for each in operators if each.namespace != "aten")
    if foreign:
        raise DataError(
            f"{out}: ExecuTorch has no kernel for {', '.join(foreign)}, of which this network is "
            "made. Choose onnx, openvino or exported-program."
        )


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Product of two stacks of matrices, which ExecuTorch would copy first, to no purpose."""
    if left.ndim == right.ndim == 3 and left.shape[0] == right.shape[0]:
        return torch.bmm(left, right)
    return NotImplemented


def network_configs() -> list[type[XNNPartitionerConfig]]:
    """What XNNPACK can run, but for NMS.

    That has a product and a comparison in turn, many times. XNNPACK has no comparison: each product
    would be a network of its own, whose making takes most of the time of an export.
    """
    return [_outside_nms(config) for config in ALL_PARTITIONER_CONFIGS]


def _outside_nms(config: type[XNNPartitionerConfig]) -> type[XNNPartitionerConfig]:
    class Outside(config):
        def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
            return not is_nms(node) and super().check_constraints(node, ep)

    return Outside


def is_nms(node: Node) -> bool:
    """Whether an operation comes from the module that does NMS."""
    modules = node.meta.get("nn_module_stack") or {}
    return any(
        str(kind).endswith(f".{ExportablePostProcess.__name__}") for _, kind in modules.values()
    )
