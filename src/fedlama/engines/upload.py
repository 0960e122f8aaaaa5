"""Whole numbers on their way to a device, without waiting for what the device still has to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.placement import upload


def row_numbers(rows: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of rows as an int64 tensor on a device; see :func:`fedlama.placement.upload`.

    Args:
        rows: The numbers.
        device: Where they are wanted.
    """
    return upload(torch.tensor(rows, dtype=torch.int64), device)


def upload_all(pieces: Sequence[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Return arrays of whole numbers as tensors on a device, sent there in one transfer.

    Args:
        pieces: The arrays, at least one, of any shapes.
        device: Where they are wanted.

    Returns:
        Dense tensors of the same shapes.
    """
    flat = upload(torch.from_numpy(np.concatenate([piece.reshape(-1) for piece in pieces])), device)
    parts = torch.split(flat, [piece.size for piece in pieces])
    return [part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True)]
