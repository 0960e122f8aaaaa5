"""Products of matrices with thin ones whose sums have one order, so that every machine and way gives the same bits.

A library's matrix product adds up in an order of its own, which depends on the processor, on the number of threads and
on how many matrices are multiplied at once. Here only single additions and multiplications are asked of PyTorch. The
compiled loops of :mod:`fedlama.kernels.products` have the same order, and take a tenth of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 64
"""Sums over columns: column j is added to sum j modulo 64, one after another, and then halves are added to halves."""
GROUPS = 32
"""Sums over rows: the rows are cut into 32 groups of equal size, the last ones shorter; each is added up from its first
row on, and then the groups."""


def times(matrices: Tensor, right: Tensor) -> Tensor:
    """Return the products of matrices with thin ones.

    Args:
        matrices: (clients, height, width).
        right: (clients, width, rank).

    Returns:
        (clients, height, rank).
    """
    clients, height, width = matrices.shape
    lanes = matrices.new_zeros(clients, right.shape[2], height, LANES)  # (clients, rank, height, 64)
    wide, columns = matrices[:, None], right.transpose(1, 2)[:, :, None]  # (clients, 1 and rank, height and 1, width)
    for first in range(0, width, LANES):
        part = wide[..., first : first + LANES] * columns[..., first : first + LANES]
        lanes[..., : part.shape[3]] += part
    return _folded(lanes).transpose(1, 2)


def transposed_times(matrices: Tensor, left: Tensor) -> Tensor:
    """Return the products of transposed matrices with thin ones.

    Args:
        matrices: (clients, height, width).
        left: (clients, height, rank).

    Returns:
        (clients, width, rank).
    """
    clients, height, width = matrices.shape
    size = -(-height // GROUPS)
    groups = matrices.new_zeros(clients, left.shape[2], GROUPS, width)  # (clients, rank, 32, width)
    high, columns = matrices[:, None], left.transpose(1, 2)[..., None]  # (clients, 1 and rank, height, width and 1)
    for row in range(size):  # of each group
        part = high[:, :, row::size] * columns[:, :, row::size]  # (clients, rank, groups that have it, width)
        groups[:, :, : part.shape[2]] += part
    total = torch.zeros_like(groups[:, :, 0])  # (clients, rank, width)
    for group in groups.unbind(2):
        total = total + group
    return total.transpose(1, 2)


def orthonormal(columns: Tensor) -> Tensor:
    """Return orthonormal bases of columns (Gram-Schmidt, twice for accuracy); zero where they are dependent.

    Args:
        columns: (clients, height, rank).

    Returns:
        (clients, height, rank).
    """
    basis: list[Tensor] = []
    for column in columns.unbind(2):  # (clients, height)
        rest, size = column, _dot(column, column).sqrt()
        for earlier in [*basis, *basis]:
            rest = rest - earlier * _dot(earlier, rest)
        norm = _dot(rest, rest).sqrt()
        basis.append(torch.where(norm > 1e-6 * size, rest / norm, torch.zeros_like(rest)))
    return torch.stack(basis, 2)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the scalar products of rows: two of (clients, height) to (clients, 1)."""
    length = 1 << (left.shape[1] - 1).bit_length()
    return _folded(torch.nn.functional.pad(left * right, (0, length - left.shape[1])))[:, None]


def _folded(sums: Tensor) -> Tensor:
    """Return the totals over the last dimension, a power of two, halves added to halves."""
    while sums.shape[-1] > 1:
        left, right = sums.chunk(2, -1)
        sums = left + right
    return sums[..., 0]
