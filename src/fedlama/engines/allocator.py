"""Keep large blocks of memory in the process instead of giving them back after every use.

glibc hands blocks above a threshold back to the kernel when they are freed, and the next activation of the same size
is paid for with page faults again: a third of the time of a convolution net on the CPU. Raised thresholds keep the
blocks; the price is that the process holds its peak memory until it ends.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_TRIM_THRESHOLD = -1  # numbers from glibc's malloc.h
_MMAP_THRESHOLD = -3
_BYTES = 1 << 30


@functools.cache
def keep_memory() -> bool:
    """Raise glibc's thresholds for this process, once.

    Returns:
        Whether it was possible; other systems and C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _BYTES))
