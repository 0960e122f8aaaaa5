"""How a stacked tensor lies in memory, and its rows as flat vectors in that order without a copy."""

from __future__ import annotations

import torch
from torch import Tensor


def physical_order(stacked: Tensor) -> tuple[int, ...]:
    """Return the row dimensions of a (clients, ...) tensor from the slowest to the fastest in memory.

    >>> physical_order(torch.empty(2, 3, 4, 5, 6).permute(0, 1, 4, 2, 3))
    (1, 3, 4, 2)
    """
    return tuple(sorted(range(1, stacked.dim()), key=lambda dim: -stacked.stride()[dim]))


def flat_rows(stacked: Tensor, order: tuple[int, ...]) -> Tensor:
    """View (clients, ...) as (clients, elements), elements as they lie in memory."""
    return stacked.permute([0, *order]).reshape(stacked.shape[0], -1)


def flat_one(value: Tensor, order: tuple[int, ...]) -> Tensor:
    """Bring one client's tensor into the order of :func:`flat_rows`: (elements,)."""
    return value.permute([dim - 1 for dim in order]).reshape(-1)


def unflat_one(flat: Tensor, shape: torch.Size, order: tuple[int, ...]) -> Tensor:
    """Undo :func:`flat_one`.

    Args:
        flat: (elements,).
        shape: One client's shape.
        order: As given by :func:`physical_order`.

    Returns:
        A contiguous tensor of that shape.
    """
    stored = flat.view([shape[dim - 1] for dim in order])
    back = sorted(range(len(order)), key=lambda place: order[place])
    return stored.permute(back).contiguous()
