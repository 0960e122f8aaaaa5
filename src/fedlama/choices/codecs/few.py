"""What sparse codecs share where kernels are available: a few numbers of each difference, in few passes over memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext
from fedlama.choices.codecs.compiled import PIECE, Arrays, by_pieces, by_rows
from fedlama.choices.codecs.difference import RESIDUAL
from fedlama.kernels import keep_differences, put_numbers

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Chosen = tuple[Integers, Floats]
"""Positions, int64 (count,), ascending, and the differences there, float32 (count,)."""


def keep_all(arrays: Arrays, context: CohortContext, bounds: Floats) -> list[Chosen]:
    """Write a cohort's differences to `arrays.left` and the reference to `arrays.received`, as if nothing was sent.

    Args:
        arrays: The rows.
        context: Whose `spread` is used.
        bounds: Of each row: differences whose magnitude reaches it are returned; float32 (clients,).

    Returns:
        Of each row: the differences that reach the bound, and those that are not numbers.
    """
    clients, elements = arrays.values.shape
    noted: list[list[Chosen]] = [[(_NONE, _NOTHING)] * -(-elements // PIECE) for _ in range(clients)]

    def compute(row: int, part: slice) -> None:
        written = arrays.received[row, part], arrays.left[row, part]
        change = arrays.values[row, part], arrays.reference[part], arrays.residuals[row, part]
        reached, numbers = keep_differences(*written, *change, bound=bounds[row], past_caches=arrays.past_caches)
        noted[row][part.start // PIECE] = reached + part.start, numbers

    by_pieces(compute, arrays, context)
    return [(np.concatenate([part[0] for part in row]), np.concatenate([part[1] for part in row])) for row in noted]


def unbounded(arrays: Arrays) -> Floats:
    """Return bounds for :func:`keep_all` that only infinite differences reach."""
    return np.full(len(arrays.values), np.inf, np.float32)


def send_chosen(
    arrays: Arrays,
    context: CohortContext,
    choose: Callable[[int], Chosen],
    rounded: Callable[[Tensor, int], Tensor],
) -> tuple[Tensor, CodecState]:
    """Send the chosen numbers of differences of which nothing was sent yet.

    Args:
        arrays: The rows, after :func:`keep_all`.
        context: Whose `spread` is used.
        choose: Returns what is chosen of a row.
        rounded: Returns what arrives of a row's chosen numbers, float32 (count,).

    Returns:
        What arrives, (clients, ...), and the new residuals.
    """

    def compute(row: int) -> None:
        positions, numbers = choose(row)
        sent = rounded(torch.from_numpy(numbers), row).numpy()
        put_numbers(arrays.received[row], arrays.left[row], arrays.reference, positions, sent)

    by_rows(compute, arrays, context)
    return arrays.arriving, {RESIDUAL: arrays.residual}


_NONE, _NOTHING = np.empty(0, np.int64), np.empty(0, np.float32)
