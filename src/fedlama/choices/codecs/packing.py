"""Numbers of a few bits as bytes, and sums whose order is fixed, so that every device and engine finds the same bits.

All functions work on rows: one client's flat tensor is one row, so a cohort is coded in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512
"""Elements that share one scale."""


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack small integers, the first one into the lowest bits of the first byte.

    Args:
        codes: uint8 (rows, elements), each below 2^bits.
        bits: 1, 2, 4 or 8.

    Returns:
        uint8 (rows, bytes); the last byte is filled up with zeros.

    >>> pack_codes(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist()
    [[33, 3]]
    """
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    short = -codes.shape[1] % per_byte
    groups = torch.nn.functional.pad(codes, (0, short)).view(len(codes), -1, per_byte)  # (rows, bytes, per_byte)
    packed = groups[:, :, 0].clone()
    for position in range(1, per_byte):
        packed |= groups[:, :, position] << (position * bits)
    return packed


def unpack_codes(packed: Tensor, bits: int, elements: int) -> Tensor:
    """Undo :func:`pack_codes`.

    Args:
        packed: uint8 (rows, bytes).
        bits: 1, 2, 4 or 8.
        elements: How many integers a row holds.

    >>> unpack_codes(torch.tensor([[33, 3]], dtype=torch.uint8), 4, 3).tolist()
    [[1, 2, 3]]
    """
    per_byte = 8 // bits
    if per_byte == 1:
        return packed
    groups = torch.stack([(packed >> (position * bits)) & (2**bits - 1) for position in range(per_byte)], 2)
    return groups.view(len(packed), -1)[:, :elements]  # (rows, bytes, per_byte) -> (rows, elements)


def code_bytes(elements: int, bits: int) -> int:
    """Return how many bytes :func:`pack_codes` makes of a row."""
    return -(-elements * bits // 8)


def to_bytes(numbers: Tensor) -> Tensor:
    """Return the bytes of numbers, little-endian: (rows, n) -> uint8 (rows, n * width)."""
    return numbers.contiguous().view(torch.uint8)


def from_bytes(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo :func:`to_bytes`; the bytes may begin anywhere."""
    return data.clone(memory_format=torch.contiguous_format).view(dtype)


def blocks(rows: Tensor, size: int = BLOCK) -> Tensor:
    """Cut rows into blocks of one size, the last one filled up with zeros: (rows, n) -> (rows, blocks, size)."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % size)).view(len(rows), -1, size)


def block_lengths(elements: int, size: int = BLOCK) -> Tensor:
    """Return the number of elements in each block of a row, as float32 of shape (blocks, 1)."""
    lengths = torch.full((-(-elements // size), 1), float(size))
    if elements:
        lengths[-1] = elements - (len(lengths) - 1) * size
    return lengths


def tree_sum(values: Tensor) -> Tensor:
    """Add up the last dimension by halves, which fixes the order of all additions: (..., n) -> (..., 1).

    >>> tree_sum(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    tensor([15.])
    """
    if values.shape[-1] == 0:
        return values.new_zeros(*values.shape[:-1], 1)
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = torch.nn.functional.pad(values, (0, 1))
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values


def square_root(values: Tensor) -> Tensor:
    """Return the square root of float32 numbers, rounded correctly; PyTorch's own may be one bit off, or not."""
    return values.to(torch.float64).sqrt().to(torch.float32)
