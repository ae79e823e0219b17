"""The reference kernel: one large product of float32 matrices, in each runtime that is installed.

The fastest of them is the machine's matrix ceiling: on some processors the product of one runtime
is several times as slow as that of another, and the processor is not. Images are passed over.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from .opening import Opened

SIDE = 1536
"""Rows and columns of both matrices: large enough that memory is no limit."""
FLOPS = 2 * SIDE**3
"""Multiplications and additions of one product."""
Product = Callable[[], object]
"""Multiplies two matrices that it holds."""


def installed() -> list[str]:
    """Names of the runtimes that can multiply here; sources of ``open_gemm``."""
    return [name for name, packages in _PACKAGES.items() if all(map(find_spec, packages))]


def open_gemm(source: str, threads: int) -> Opened:
    """Open the multiplication of two matrices; the source is the name of a runtime."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    product = _OPEN[source](left, right, threads)
    return Opened(lambda _: product())


def _in_torch(left: np.ndarray, right: np.ndarray, threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    first, second = torch.from_numpy(left), torch.from_numpy(right)
    out = torch.empty(SIDE, SIDE)
    return lambda: torch.mm(first, second, out=out)


def _in_onnxruntime(left: np.ndarray, right: np.ndarray, threads: int) -> Product:
    """The right matrix is a constant, as weights are, so that the runtime may rearrange it."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    given, found = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIDE, SIDE])
        for name in ("left", "product")
    )
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    weights = numpy_helper.from_array(right, "right")
    graph = helper.make_graph([node], "product", [given], [found], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})[0]


def _in_openvino(left: np.ndarray, right: np.ndarray, threads: int) -> Product:
    """The right matrix is a constant, as for ONNX Runtime."""
    import openvino
    from openvino import opset13 as ops

    given = ops.parameter([SIDE, SIDE], np.float32)
    weights = ops.constant(right, dtype=np.float32)
    build: Any = openvino.Model  # its own stubs disagree about the class
    model = build([ops.matmul(given, weights, False, False)], [given])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled: Any = openvino.Core().compile_model(model, "CPU", settings)
    return lambda: compiled([left], share_inputs=True, share_outputs=True)[0]


_PACKAGES = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
}
_OPEN = {"torch": _in_torch, "onnxruntime": _in_onnxruntime, "openvino": _in_openvino}


OPENERS: dict[str, Callable[[str, int], Opened]] = {
    "checkpoint": _checkpoint,
    "file": open_exported,
    "gemm": open_gemm,
    "peer": _peer,
}
"""What is opened -> what opens it for so many threads."""
