"""The door for everything but training: averages, write-back, norms and shuffles of stacked clients.

Arrays come in, are checked, and go to the compiled loops of :mod:`~fedlama.kernels.averaging` and
:mod:`~fedlama.kernels.drawing`. Nothing here starts a thread: columns of a stack are independent, so a caller cuts the
stack (``stack[:, first:last]``) and hands the pieces to threads of its own. Python's lock is released in the meantime.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.arrays import address_of, check_array, check_rows

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def average_rows(stack: Floats, weights: Floats, out: Floats, *, measure: bool = True) -> float:
    """Average the rows of a stack and measure how far they are from their mean, in one pass over the memory.

    Args:
        stack: x_i, float32, (clients, columns); the elements of a row are contiguous, rows may be apart.
        weights: p_i, float32, (clients,), with a sum of 1. Rows with weight 0 are not read.
        out: u = sum_i p_i x_i, float32, (columns,); overwritten.
        measure: Whether the distances are measured.

    Returns:
        sum_i p_i ||x_i - u||^2, or 0 if it is not measured.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.averaging import average_columns  # needs Numba

    check_rows("stack", stack, np.float32, (None, None))
    clients, columns = stack.shape
    check_array("weights", weights, np.float32, (clients,))
    check_array("out", out, np.float32, (columns,))
    apart = stack.strides[0] // stack.itemsize
    return float(average_columns(out, address_of(stack), apart, weights, measure))


def fill_rows(stack: Floats, value: Floats) -> None:
    """Set every row of a stack to one value, past the caches.

    Args:
        stack: float32, (clients, columns); overwritten. The elements of a row are contiguous, rows may be apart.
        value: float32, (columns,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.averaging import set_columns  # needs Numba

    check_rows("stack", stack, np.float32, (None, None))
    clients, columns = stack.shape
    check_array("value", value, np.float32, (columns,))
    set_columns(address_of(stack), stack.strides[0] // stack.itemsize, clients, value)


def squared_norms(new: Floats, old: Floats) -> tuple[float, float]:
    """Return ||new - old||^2 and ||old||^2, each element read from memory once.

    Args:
        new: float32, (elements,).
        old: float32, (elements,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes differ, or an array is not contiguous.
    """
    from fedlama.kernels.averaging import squares  # needs Numba

    check_array("new", new, np.float32, (None,))
    check_array("old", old, np.float32, new.shape)
    moved, held = squares(new, old)
    return float(moved), float(held)


class SampleTable(NamedTuple):
    """Which samples every client has.

    Attributes:
        samples: int64; all clients' sample numbers, one client after another.
        begins: int64, (all clients + 1,): where each client's begin in `samples`; the last entry is their length.
        batch_sizes: int64, (all clients,).
    """

    samples: Integers
    begins: Integers
    batch_sizes: Integers


def shuffle_rows(
    table: SampleTable, clients: Integers, first: Integers, steps: int, key: np.uint64
) -> tuple[Integers, Integers]:
    """Draw the mini-batches of several clients and steps; each epoch of a client is shuffled by its own address.

    Args:
        table: All clients' samples.
        clients: int64, (clients,): whose batches.
        first: int64, (clients,): each one's first step, from 0.
        steps: Steps.
        key: The address of all shuffles; see :func:`fedlama.core.randomness.address`.

    Returns:
        int64, (steps, clients, batch): sample numbers, short batches filled up with their first sample; and int64,
        (steps, clients): how many of them count. `batch` is the longest of these batches.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or a client is not in the table.
    """
    from fedlama.kernels.drawing import draw_rows  # needs Numba

    check_array("table.samples", table.samples, np.int64, (None,))
    check_array("table.batch_sizes", table.batch_sizes, np.int64, (None,))
    check_array("table.begins", table.begins, np.int64, (len(table.batch_sizes) + 1,))
    check_array("clients", clients, np.int64, (None,))
    check_array("first", first, np.int64, clients.shape)
    rows, lengths, longest = draw_rows(clients, first, steps, *table, key)  # (steps, clients, batch)
    if longest < 0:
        _refuse_clients(table, clients, first)
    return (rows if rows.shape[2] == longest else np.ascontiguousarray(rows[:, :, :longest])), lengths


def _refuse_clients(table: SampleTable, clients: Integers, first: Integers) -> None:
    """Say which of the numbers that the loops index with is out of range."""
    known = len(table.batch_sizes)
    if clients.min() < 0 or clients.max() >= known:
        raise ValueError(f"clients are numbered {clients.min()} to {clients.max()}, expected 0 to {known - 1}")
    if first.min() < 0:
        raise ValueError(f"first is {first.min()} for a client, expected 0 or more")
    begins, ends = table.begins[clients], table.begins[clients + 1]
    if begins.min() < 0 or ends.max() > len(table.samples) or (ends <= begins).any():
        raise ValueError("table.begins does not give every asked client one sample or more of table.samples")
    if table.batch_sizes[clients].min() < 1:
        raise ValueError("table.batch_sizes is below 1 for a client, expected 1 or more")
