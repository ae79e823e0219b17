"""Operators of ONNX by their names, written down to be put into a graph."""

from typing import Any

import onnx_ir as ir

_OUTPUTS = {"TopK": 2}
"""Operators with more than one output."""


class Recorder:
    """``recorder.Add(a, b)`` writes an ``Add`` down and returns what comes out of it."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __getattr__(self, name: str) -> Any:
        def record(*inputs: Any, **attributes: Any) -> Any:
            if name in _OUTPUTS:
                return self.tape.op_multi_out(name, inputs, attributes, num_outputs=_OUTPUTS[name])
            return self.tape.op(name, inputs, attributes)

        return record
