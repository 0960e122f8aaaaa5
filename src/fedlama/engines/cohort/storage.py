"""Where stacked tensors are stored: in the device's memory, or in files that the operating system pages in and out."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import math
import platform
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedlama.errors import ConfigError

_TRIM_THRESHOLD = -1  # numbers from glibc's malloc.h
_MMAP_THRESHOLD = -3
_BYTES = 1 << 30
_HUGE = 1 << 21
_MADV_HUGEPAGE = 14  # from Linux's mman.h


@functools.cache
def keep_memory() -> bool:
    """Let this process keep memory that it has freed, for its next allocation; once per process.

    glibc returns large blocks to the system when they are freed, and page faults of the next block take longer than
    many kernels. Raising two thresholds of its allocator prevents it.

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
    """Ask Linux to store a large tensor in pages of 2 MiB; does nothing on other systems.

    With pages of 4 KiB, a pass over many clients' rows spends a good part of its time on looking up pages.

    Args:
        tensor: Dense, on the CPU, and not yet written to.
    """
    start = -(-tensor.data_ptr() // _HUGE) * _HUGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _HUGE * _HUGE
    if length <= 0 or platform.system() != "Linux":
        return
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)


class Storage(Protocol):
    """Allocates tensors.

    Attributes:
        in_memory: Whether they are in memory like any other tensor.
    """

    in_memory: ClassVar[bool]

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a dense tensor with arbitrary values."""


class DeviceStorage:
    """Allocates tensors in the memory of a device.

    Args:
        device: Which.
    """

    in_memory: ClassVar[bool] = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a dense tensor with arbitrary values."""
        tensor = torch.empty(shape, dtype=dtype, device=self._device)
        if self._device.type == "cpu":
            use_huge_pages(tensor)
        return tensor


class DiskStorage:
    """Allocates tensors in memory-mapped files, for cohorts larger than the memory.

    The files are deleted as soon as they are mapped: their space on the disk is free again when the tensor is deleted,
    however the program ends. Pages that are in use stay in memory, so a cohort that fits into memory costs little more
    than with :class:`DeviceStorage`.

    Args:
        folder: An existing folder on a disk with enough space.

    Raises:
        ConfigError: The folder does not exist.
    """

    in_memory: ClassVar[bool] = False

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise ConfigError(f"state_dir is {str(folder)!r}, expected an existing folder; create it or choose another")
        self._folder = Path(tempfile.mkdtemp(prefix="fedlama-state-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._numbers = itertools.count()

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a dense tensor in a fresh file, zero at first."""
        path = self._folder / f"{next(self._numbers)}.bin"
        flat = torch.from_file(str(path), shared=True, size=max(math.prod(shape), 1), dtype=dtype)
        with contextlib.suppress(OSError):  # some systems delete no file in use: it is deleted with the folder then
            path.unlink()
        return flat[: math.prod(shape)].view(shape)
