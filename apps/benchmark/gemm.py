"""The reference kernel: one large product of float32 matrices, which nothing of ours changes.

Its speed is the machine's matrix ceiling. Pictures are passed over.
"""

import torch

from .opening import Opened

SIDE = 1536
"""Rows and columns of both matrices: large enough that memory is no limit."""
FLOPS = 2 * SIDE**3
"""Multiplications and additions of one product."""


def open_side(source: str, threads: int) -> Opened:  # noqa: ARG001
    """See ``Opener``; there is no source."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    left, right, product = (torch.randn(SIDE, SIDE) for _ in range(3))
    return Opened(lambda _: torch.mm(left, right, out=product))
