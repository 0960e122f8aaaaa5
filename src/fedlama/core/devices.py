"""Moving data and transforms to the device that computes with them.

On the CPU nothing is moved.
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
        """Return it with its tensors on a device; a module changes in place and returns itself."""


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the device's pending work.

    A plain copy to a CUDA device waits until all earlier work on the device is done. A copy from pinned memory is
    queued after that work instead, and torch keeps the pinned memory until it has been read.

    Args:
        values: The tensor, on the CPU or already on the device.
        device: The target device.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def transform_on(transform: Transform, device: torch.device) -> Transform:
    """Return a transform for data on a device: a copy with its tensors there, if it has a method ``to``.

    Otherwise it would copy its tensors to the device for every batch. On the CPU, and without a ``to``, the transform
    itself is returned.

    Args:
        transform: The transform; never changed.
        device: Where the data are.
    """
    candidate: object = transform
    if device.type == "cpu" or not isinstance(candidate, Movable):
        return transform
    return cast(Transform, copy.deepcopy(candidate).to(device))  # copied first: a module moves itself


def row_numbers(rows: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers of rows as an int64 tensor of shape (rows,) on a device; see :func:`upload`.

    Args:
        rows: The numbers.
        device: The target device.
    """
    return upload(torch.tensor(rows, dtype=torch.int64), device)


def upload_all(pieces: Sequence[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Return integer arrays as tensors on a device, copied there in one transfer.

    Args:
        pieces: The arrays, at least one, of any shapes.
        device: The target device.

    Returns:
        Contiguous int64 tensors of the same shapes, views of one buffer.

    >>> [piece.tolist() for piece in upload_all([np.array([1, 2]), np.array([[3], [4]])], torch.device("cpu"))]
    [[1, 2], [[3], [4]]]
    """
    flat = upload(torch.from_numpy(np.concatenate([piece.reshape(-1) for piece in pieces])), device)
    parts = torch.split(flat, [piece.size for piece in pieces])
    return [part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True)]


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each tensor to its target; on a GPU the small tensors of one dtype share a launch.

    Args:
        targets: Overwritten.
        sources: Of the same shapes and dtypes.
    """
    for dtype in dict.fromkeys(target.dtype for target in targets):
        chosen = [index for index, target in enumerate(targets) if target.dtype == dtype]
        torch._foreach_copy_([targets[index] for index in chosen], [sources[index] for index in chosen])
