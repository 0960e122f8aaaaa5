"""Row numbers on their way to a device, without waiting for what the device still has to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def row_numbers(rows: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of rows as an int64 tensor on a device.

    A plain copy to a CUDA device waits until the device has done all that was asked of it before; a copy from pinned
    memory queues up behind that, and torch keeps the pinned memory until it has been read.

    Args:
        rows: The numbers.
        device: Where they are wanted.
    """
    numbers = torch.tensor(rows, dtype=torch.int64)
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)
