"""One layer's synchronisation over stacked clients: mean and discrepancy in one pass, and the write-back.

The stack is walked in blocks of columns that fit the cache: a block is fetched from memory once, averaged over the
clients, and compared with its own mean while it is still close. The write-back sets each block on all clients.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 18
"""Elements of all clients in a block on the CPU: 1 MiB of float32, half of a usual second-level cache."""


def mean_and_discrepancy(stacked: Tensor, weights: Tensor, measure: bool) -> tuple[Tensor, Tensor]:
    """Average over the clients and measure how far they lie apart.

    Args:
        stacked: x_i as rows, (clients, elements), dense.
        weights: p_i, float64 of shape (clients,) on the same device.
        measure: Whether the discrepancy is wanted.

    Returns:
        u = sum_i p_i x_i, (elements,), and sum_i p_i ||x_i - u||^2, float64 scalar. Whole numbers are averaged in
        float64 and rounded.
    """
    total = torch.zeros((), dtype=torch.float64, device=stacked.device)
    if not stacked.is_floating_point():
        mean = (weights @ stacked.double()).round().to(stacked.dtype)
        return mean, (weights @ (stacked - mean).double().square().sum(1)) if measure else total
    clients, elements = stacked.shape
    own = weights.to(stacked.dtype)
    mean = torch.empty(elements, dtype=stacked.dtype, device=stacked.device)
    width = min(block_width(stacked), elements)
    # Room that is used again and again: a fresh block of this size would cost page faults each time.
    room = torch.empty(clients * width if measure else 0, dtype=stacked.dtype, device=stacked.device)
    for start in range(0, elements, width or 1):
        block, part = stacked[:, start : start + width], mean[start : start + width]
        torch.mv(block.t(), own, out=part)
        if measure:
            apart = torch.sub(block, part, out=room[: block.numel()].view(block.shape))
            total += weights @ torch.linalg.vector_norm(apart, dim=1).double().square()
    return mean, total


def write_back(stacked: Tensor, value: Tensor) -> None:
    """Set every client's row to one value.

    Args:
        stacked: (clients, elements), dense; overwritten.
        value: (elements,).
    """
    for start in range(0, stacked.shape[1], width := block_width(stacked)):
        stacked[:, start : start + width].copy_(value[start : start + width])


def block_width(stacked: Tensor) -> int:
    """Columns per block: what fits the cache on the CPU, all of them on other devices."""
    clients, elements = stacked.shape
    return max(_BLOCK // clients, 1024) if stacked.device.type == "cpu" else max(elements, 1)
