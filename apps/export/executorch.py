"""ExecuTorch files: the network runs in XNNPACK, decoding and NMS in ExecuTorch's kernels."""

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
    """Programs of ExecuTorch, in which each entry of the metadata is a method.

    Shapes are fixed: images have the network's size, and the default batch size is 1.
    """

    suffix = ".pte"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        options = with_fixed_shapes(options)
        program = plain_program(deployable, options).run_decompositions(
            {_MATMUL: matmul, torch.ops.torchvision.roi_align.default: roi_align}
        )
        refuse_foreign(program, out)
        configs = [outside_nms(config) for config in ALL_PARTITIONER_CONFIGS]
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner(configs=configs)],
            constant_methods=written_metadata(deployable, options).to_strings(),
        ).to_executorch()
        with replaced_atomically(out) as temporary, temporary.open("wb") as file:
            lowered.write_to_file(file)
        return {"executorch": version("executorch"), "batch": options.batch}


def refuse_foreign(program: ExportedProgram, out: Path) -> None:
    """Raise a DataError if a network has operators other than torch's own, without kernels."""
    operators = {n.target for n in program.graph.nodes if isinstance(n.target, OpOverload)}
    foreign = sorted(str(each) for each in operators if each.namespace != "aten")
    if foreign:
        raise DataError(
            f"{out}: ExecuTorch has no kernel for {', '.join(foreign)}, which this network uses. "
            "Choose onnx, openvino or exported-program."
        )


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply batches of matrices by ``bmm``, as ExecuTorch's ``matmul`` copies them first."""
    if left.ndim == right.ndim == 3 and left.shape[0] == right.shape[0]:
        return torch.bmm(left, right)
    return NotImplemented


def outside_nms(config: type[XNNPartitionerConfig]) -> type[XNNPartitionerConfig]:
    """Restrict a configuration of XNNPACK's partitioner to operations outside NMS.

    NMS alternates products and comparisons many times. XNNPACK has no comparison, so each product
    would become a partition of its own, and making those takes most of the time of an export.
    """

    class Outside(config):
        def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
            return not is_nms(node) and super().check_constraints(node, ep)

    return Outside


def is_nms(node: Node) -> bool:
    """Return whether an operation comes from the module that runs NMS."""
    modules, name = node.meta.get("nn_module_stack") or {}, f".{ExportablePostProcess.__name__}"
    return any(str(kind).endswith(name) for _, kind in modules.values())
