"""Data and transforms on their way to the device that computes with them.

Written for CUDA and not yet run there; on the CPU nothing is moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Transform = TypeVar("Transform", bound=Callable[..., object])


@runtime_checkable
class Movable(Protocol):
    """A transform with tensors of its own, such as the statistics of a normalisation."""

    def to(self, device: torch.device) -> object:
        """Return it with its tensors on a device; a module moves itself and returns itself."""


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for what the device still has to do.

    A plain copy to a CUDA device waits until the device has done all that was asked of it before; a copy from pinned
    memory queues up behind that, and torch keeps the pinned memory until it has been read.

    Args:
        values: The tensor, on the CPU or on the device already.
        device: Where it is wanted.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def transform_on(transform: Transform, device: torch.device) -> Transform:
    """Return a transform for data on a device: a copy with its tensors there, if it has a ``to``.

    Without this it would have to send its tensors there for every batch. On the CPU, and without a ``to``, it is the
    transform that was given.

    Args:
        transform: The transform; never changed.
        device: Where the data are.
    """
    own: object = transform
    if device.type == "cpu" or not isinstance(own, Movable):
        return transform
    return cast(Transform, copy.deepcopy(own).to(device))  # copied first: a module moves itself


def row_numbers(rows: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of rows as an int64 tensor on a device; see :func:`fedlama.core.devices.upload`.

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
