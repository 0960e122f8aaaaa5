"""What codecs need to use compiled kernels for a cohort: which tensors suit them, and these as arrays in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.codecs.base import CohortContext, Spread
from fedlama.kernels import can_compile, round_floats, round_rows

PIECE = 1 << 18
"""Columns that a kernel is called for: a mebibyte of float32, a whole number of blocks."""
LARGE = 1 << 16
"""Numbers from which on it is worth loading Numba, which takes 100 MiB."""
_PAST_CACHES = 1 << 25
"""Bytes of a stack from which on results would only push everything else out of the caches."""

Floats = NDArray[np.float32]


def suits_kernels(stacked: Tensor) -> bool:
    """Return whether a stack is worth a kernel, and there are kernels for it here."""
    large = stacked.numel() >= LARGE and stacked.device.type == "cpu" and stacked.dtype == torch.float32
    return large and can_compile()


@dataclass(frozen=True)
class Arrays:
    """A cohort's differences as kernels take them, and memory for the results.

    Attributes:
        values: x, (clients, elements).
        reference: r, (elements,).
        residuals: e, (clients, elements); (clients, 0) for zero.
        received: What arrives, likewise.
        left: The new residuals, likewise; (clients, 0) where there are none.
        arriving: `received` as a tensor, (clients, ...).
        residual: `left` as a tensor, (clients, ...).
        past_caches: Whether results should be written past the caches.
    """

    values: Floats
    reference: Floats
    residuals: Floats
    received: Floats
    left: Floats
    arriving: Tensor
    residual: Tensor
    past_caches: bool


def arrays_of(stacked: Tensor, reference: Tensor | None, residual: Tensor | None) -> Arrays:
    """Return a cohort's tensors as arrays.

    Args:
        stacked: (clients, ...), as :func:`suits_kernels` says.
        reference: Of one client's shape; None for zero.
        residual: (clients, ...); None for zero, and where no new one is wanted.
    """
    clients = len(stacked)
    before = torch.zeros_like(stacked[0]) if reference is None else reference
    arriving, nothing = torch.empty(stacked.shape), torch.empty(clients, 0)
    left = nothing if residual is None else torch.empty(stacked.shape)
    values, residuals, received, written = (
        tensor.detach().contiguous().view(clients, -1).numpy() if tensor.numel() else nothing.numpy()
        for tensor in (stacked, nothing if residual is None else residual, arriving, left)
    )
    flat = before.detach().contiguous().view(-1).numpy()
    return Arrays(values, flat, residuals, received, written, arriving, left, stacked.nbytes >= _PAST_CACHES)


def by_pieces(job: Callable[[int, slice], None], arrays: Arrays, context: CohortContext) -> None:
    """Call a function for pieces of all clients' rows, in the caller's threads.

    Args:
        job: Takes a row and its columns, which begin at a whole block.
        arrays: The rows.
        context: Whose `spread` is used.
    """
    clients, elements = arrays.values.shape
    # All clients' rows of the same columns, one after another: the reference is still in the cache then.
    pieces = [(row, slice(first, first + PIECE)) for first in range(0, elements, PIECE) for row in range(clients)]
    context.spread(lambda piece: job(*piece), pieces)


def by_rows(job: Callable[[int], None], arrays: Arrays, context: CohortContext) -> None:
    """Call a function for every client's row, in the caller's threads."""
    context.spread(job, range(len(arrays.values)))


def narrowed(stacked: Tensor, context: CohortContext, *, to_half: bool) -> Tensor:
    """Return a stack rounded to float16 or bfloat16, and widened again."""
    values = stacked.detach().contiguous().view(-1)
    arriving = torch.empty(values.shape)
    given, out, past_caches = values.numpy(), arriving.numpy(), stacked.nbytes >= _PAST_CACHES

    def compute(first: int) -> None:
        part = slice(first, first + PIECE)
        round_floats(out[part], given[part], to_half=to_half, past_caches=past_caches)

    context.spread(compute, range(0, len(given), PIECE))
    return arriving.view(stacked.shape)


def rounded_rows(stacked: Tensor, rows: int, spread: Spread) -> Tensor:
    """Return a stack with every row of its matrices rounded to 8 bits, and widened again.

    Args:
        stacked: (clients, ...), as :func:`suits_kernels` says.
        rows: Rows of one client's matrix.
        spread: As that of :class:`CohortContext`.
    """
    clients, columns = len(stacked), stacked[0].numel() // rows
    values, arriving = stacked.detach().contiguous().view(clients, -1), torch.empty(stacked.shape)
    given, out, past_caches = values.numpy(), arriving.view(clients, -1).numpy(), stacked.nbytes >= _PAST_CACHES

    def compute(piece: tuple[int, int]) -> None:
        client, first = piece
        end = min(first + height, rows)
        part = slice(first * columns, end * columns)
        round_rows(out[client, part], given[client, part], end - first, past_caches=past_caches)

    height = max(PIECE // columns, 1)
    spread(compute, [(client, first) for client in range(clients) for first in range(0, rows, height)])
    return arriving
