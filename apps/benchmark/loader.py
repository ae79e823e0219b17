"""Openers of everything that is timed, named by plain data; does not import torch."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ..inference.runtime import open_runtime

Run = Callable[[np.ndarray], object]
"""Images (B, H, W, 3) uint8 RGB to any output."""


class Opened(NamedTuple):
    """A model that is ready to run."""

    whole: Run
    """The whole model, with resize and NMS, from images of any size."""
    network: Run | None = None
    """The network alone, from images of its own size; None if it cannot be separated."""


class Opening(NamedTuple):
    """The name of something that a process opens and runs."""

    opener: str
    """One of ``OPENERS``."""
    source: str
    """Usually a file."""
    part: str = "whole"
    """The field of ``Opened`` that runs."""


def _with_torch(name: str) -> Callable[[str, int], Opened]:
    """Return an opener of ``peers``, which is imported when it is called."""

    def opener(source: str, threads: int) -> Opened:
        return getattr(import_module(".peers", __package__), name)(source, threads)

    return opener


def open_side(opening: Opening, threads: int) -> Run:
    """Open something to be timed with a number of threads.

    Raises:
        DataError: It cannot be opened.
        ValueError: It has no such part.
    """
    run = getattr(OPENERS[opening.opener](opening.source, threads), opening.part)
    if run is None:
        raise ValueError(f"{opening.source}: has no {opening.part} of its own")
    return run


MARK = "#"
"""Separates a file from the precision in which it runs."""


def open_exported(source: str, threads: int) -> Opened:
    """Open an exported file, optionally followed by "#" and a precision other than the default."""
    path, _, precision = source.partition(MARK)
    device = f"cpu:{precision}" if precision else "cpu"
    return Opened(open_runtime(path, device, threads))


SIDE = 1536
"""Rows and columns of both matrices, large enough for compute to be the limit, not memory."""
FLOPS = 2 * SIDE**3
"""Multiplications and additions of a matrix product."""
Product = Callable[[], object]
"""Multiplies two fixed matrices."""


def installed() -> list[str]:
    """Return the runtimes that can multiply here, which are the sources of ``open_gemm``."""
    return [name for name, packages in _PACKAGES.items() if all(map(find_spec, packages))]


def open_gemm(source: str, threads: int) -> Opened:
    """Open the multiplication of two matrices in a runtime, which the source names."""
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
    """Multiply in ONNX Runtime, with a constant as weights are, which it may rearrange."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    info, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    given, found = (info(name, kind, [SIDE, SIDE]) for name in ("left", "product"))
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    weights = numpy_helper.from_array(right, "right")
    graph = helper.make_graph([node], "product", [given], [found], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    content, on_cpu = model.SerializeToString(), ["CPUExecutionProvider"]
    session: Any = onnxruntime.InferenceSession(content, options, providers=on_cpu)
    return lambda: session.run(None, {"left": left})[0]


def _in_openvino(left: np.ndarray, right: np.ndarray, threads: int) -> Product:
    """Multiply in OpenVINO, with a constant as in ONNX Runtime."""
    import openvino
    from openvino import opset13 as ops

    given = ops.parameter([SIDE, SIDE], np.float32)
    weights = ops.constant(right, dtype=np.float32)
    build: Any = openvino.Model  # its own stubs disagree about the class
    model = build([ops.matmul(given, weights, False, False)], [given])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled: Any = openvino.Core().compile_model(model, "CPU", settings)
    return lambda: compiled([left], share_inputs=True, share_outputs=True)[0]


_PACKAGES = {"torch": ["torch"], "onnxruntime": ["onnxruntime", "onnx"], "openvino": ["openvino"]}
_OPEN = {"torch": _in_torch, "onnxruntime": _in_onnxruntime, "openvino": _in_openvino}

OPENERS: dict[str, Callable[[str, int], Opened]] = {
    "checkpoint": _with_torch("open_checkpoint"),
    "file": open_exported,
    "gemm": open_gemm,
    "peer": _with_torch("open_peer"),
}
"""Kind of a source -> function of the source and the number of threads."""
