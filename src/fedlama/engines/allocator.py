"""Large blocks of memory: kept in the process instead of given back after every use, and in large pages.

glibc hands blocks above a threshold back to the kernel when they are freed, and the next activation of the same size
is paid for with page faults again: a third of the time of a convolution net on the CPU. Raised thresholds keep the
blocks; the price is that the process holds its peak memory until it ends.
"""

from __future__ import annotations

import ctypes
import functools
import platform

from torch import Tensor

_TRIM_THRESHOLD = -1  # numbers from glibc's malloc.h
_MMAP_THRESHOLD = -3
_BYTES = 1 << 30
_HUGE = 1 << 21
_MADV_HUGEPAGE = 14  # from Linux's mman.h


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


def use_huge_pages(tensor: Tensor) -> None:
    """Ask Linux to back a large, still untouched tensor with pages of 2 MiB; elsewhere nothing happens.

    A pass over many clients' rows otherwise spends a good part of its time looking up pages.

    Args:
        tensor: Dense, on the CPU.
    """
    start = -(-tensor.data_ptr() // _HUGE) * _HUGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _HUGE * _HUGE
    if length <= 0 or platform.system() != "Linux":
        return
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
