"""Memory that a training step frees stays with the process, so that the next step need not ask."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 256 << 20}


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks instead of returning them to the kernel.

    By default each large tensor is mapped anew and its pages are zeroed by the kernel, step after
    step. On two CPU cores a training step of SSD-300 took 0.95 s instead of 1.09 s in bfloat16 and
    1.23 s instead of 1.61 s in float32 (batch 16, channels_last). Does nothing where the C library
    is another one.

    Returns:
        Whether all settings were taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS.items())
