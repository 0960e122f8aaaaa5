"""What memory a device has left, and what a computation takes of it at its peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class DeviceMemory(Protocol):
    """Tells about the memory of one device."""

    def free(self) -> int:
        """Return the bytes that can still be had."""

    def peak(self, compute: Callable[[], object]) -> int:
        """Run something and return the bytes it held at its peak, beyond those held before."""


class CudaMemory:
    """The memory of a CUDA device, as torch's allocator counts it.

    Args:
        device: Which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Return the bytes that nobody has, and those that torch holds in reserve."""
        nobodys, _ = torch.cuda.mem_get_info(self._device)
        reserve = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return nobodys + reserve

    def peak(self, compute: Callable[[], object]) -> int:
        """Run something and return the bytes it held at its peak; the device's peak statistics begin anew."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        compute()
        return torch.cuda.max_memory_allocated(self._device) - before
