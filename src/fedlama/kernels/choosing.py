"""The door for sparse codecs: which numbers of one client's difference are sent, and what is left of it then.

As in :mod:`~fedlama.kernels.codecs`, arrays are checked and go to compiled loops, those of
:mod:`~fedlama.kernels.selection` and :mod:`~fedlama.kernels.hashes`, and nothing here starts a thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.arrays import check_array, check_change

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

NOWHERE: Integers = np.empty(0, np.int64)
_DEVIATIONS = 6.0
"""Standard deviations between an expected number of hashes and a bound that is taken for sure; see `LeastHashes`."""


def keep_differences(
    received: Floats,
    left: Floats,
    values: Floats,
    reference: Floats,
    residual: Floats,
    *,
    positions: Integers = NOWHERE,
    bound: float = np.inf,
    past_caches: bool = False,
) -> tuple[Integers, Floats]:
    """Send the difference of one client's values from a reference at some positions, and keep the rest of it.

    Args:
        received: What arrives, float32, (columns,); overwritten.
        left: What is left: 0 at the positions, the difference elsewhere, float32, (columns,); overwritten.
        values: x, float32, (columns,).
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        positions: int64, (positions,), ascending.
        bound: Differences whose magnitude reaches it are returned, and those that are not numbers; above 0.
        past_caches: Whether results are written past the caches, as is right for large arrays.

    Returns:
        The columns of the differences that reach the bound, int64, (columns,), ascending, and these differences,
        float32, (columns,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, the bound is not above 0, or the
            positions do not ascend within the columns.
    """
    from fedlama.kernels.selection import keep_changes  # needs Numba

    columns = check_change(values, reference, residual)
    check_array("received", received, np.float32, (columns,))
    check_array("left", left, np.float32, (columns,))
    check_array("positions", positions, np.int64, (None,))
    limit = np.float32(bound)
    if not limit > 0:
        raise ValueError(f"bound is {bound}, expected a number above 0")
    sent, *noted = keep_changes(received, left, values, reference, residual, positions, limit, past_caches)
    if sent < len(positions):
        raise ValueError(f"positions[{sent}] is {positions[sent]}, expected ascending ones from 0 to {columns - 1}")
    return noted[0], noted[1]


def put_numbers(received: Floats, left: Floats, reference: Floats, positions: Integers, sent: Floats) -> None:
    """Send some numbers of a difference, of which nothing was sent yet.

    Args:
        received: float32, (columns,); the reference plus what is sent is written at the positions.
        left: The difference, float32, (columns,); what is sent is subtracted at the positions.
        reference: float32, (columns,).
        positions: int64, (positions,), each one once.
        sent: float32, (positions,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, or a position is outside.
    """
    from fedlama.kernels.selection import put  # needs Numba

    check_array("received", received, np.float32, (None,))
    check_array("left", left, np.float32, received.shape)
    check_array("reference", reference, np.float32, received.shape)
    check_array("positions", positions, np.int64, (None,))
    check_array("sent", sent, np.float32, positions.shape)
    if len(positions) and not (positions.min() >= 0 and positions.max() < len(received)):
        raise ValueError(f"positions has numbers outside of 0 to {len(received) - 1}")
    put(received, left, reference, positions, sent)


def bound_of_largest(values: Floats, reference: Floats, residual: Floats, count: int) -> float:
    """Return a bound that the magnitudes of probably `count` differences reach, and not many more.

    Args:
        values: x, float32, (columns,), all of a client's tensor.
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        count: How many.

    Returns:
        A number above 0; infinity where a sample of the differences shows none.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, or has fewer numbers.
    """
    from fedlama.kernels.selection import likely_bound  # needs Numba

    _check_count(count, check_change(values, reference, residual))
    return float(likely_bound(values, reference, residual, count))


def largest_of(columns: Integers, numbers: Floats, count: int) -> tuple[Integers, Floats]:
    """Return the numbers of largest magnitude with their columns; of equal ones the first.

    What is not a number counts as infinite, and infinity as the largest finite number.

    Args:
        columns: int64, (candidates,), ascending.
        numbers: float32, (candidates,).
        count: How many.

    Returns:
        int64, (count,), ascending, and float32, (count,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes differ, an array is not contiguous, or there are fewer candidates.
    """
    from fedlama.kernels.selection import largest_candidates  # needs Numba

    check_array("columns", columns, np.int64, (None,))
    check_array("numbers", numbers, np.float32, columns.shape)
    _check_count(count, len(columns))
    chosen: tuple[Integers, Floats] = largest_candidates(columns, numbers, count)
    return chosen


def positions_of_largest(values: Floats, count: int) -> Integers:
    """Return the positions of the largest magnitudes, int64, (count,), ascending; of equal ones the first.

    What is not a number counts as infinite, and infinity as the largest finite number.

    Args:
        values: float32, (columns,).
        count: How many.

    Raises:
        TypeError: `values` has another dtype.
        ValueError: It is not contiguous, or has fewer numbers.
    """
    from fedlama.kernels.selection import largest_positions  # needs Numba

    check_array("values", values, np.float32, (None,))
    _check_count(count, len(values))
    positions: Integers = largest_positions(values, count)
    return positions


class LeastHashes:
    """The positions whose hashes are the smallest ones, for several keys; no two hashes of a key are equal.

    Hashes are distributed evenly, so how many are below a bound is nearly known. :meth:`search` notes the positions
    below a bound that is a little high, and :meth:`positions` chooses among the few near the bound.

    Args:
        elements: How many positions there are.
        count: How many are wanted of each key.
        keys: What the hashes belong to; four of the numbers of :func:`fedlama.core.randomness.keyed_halves` make one.

    Raises:
        ValueError: There are fewer positions.
    """

    def __init__(self, elements: int, count: int, keys: Sequence[int]) -> None:
        _check_count(count, elements)
        self._elements = elements
        self._count = count
        self._keys = np.array(keys, np.uint64)
        margin = _DEVIATIONS * (count**0.5 + 1.0)
        self._low, self._high = (_bound(share / elements) for share in (count - margin, count + margin))
        self._pieces: dict[int, tuple[Integers, Integers]] = {}

    def search(self, first: int, end: int) -> None:
        """Note the positions from `first` to `end` whose hashes are small, for every key.

        Args:
            first: The first position.
            end: The position after the last one; at most that of the elements counts.
        """
        from fedlama.kernels.blocks import BLOCK  # needs Numba
        from fedlama.kernels.hashes import small_hashes

        end = min(end, self._elements)
        expected = (end - first) * (self._high / 2.0**64)
        room = min(int(expected + 2 * _DEVIATIONS * (expected**0.5 + 1.0)), end - first) + BLOCK
        columns, taken = np.empty((len(self._keys), room), np.int64), np.empty(len(self._keys), np.int64)
        small_hashes(columns, taken, first, end, self._keys, np.uint64(self._high))
        self._pieces[first] = columns, taken

    def positions(self, number: int) -> Integers | None:
        """Return the positions of one key, int64, (count,), ascending, after all positions were searched.

        None, in less than one of a million calls: the bounds have missed the hashes, and all must be sorted.

        Args:
            number: The key's number.
        """
        from fedlama.kernels.hashes import least_hashes  # needs Numba

        pieces = [self._pieces[first] for first in sorted(self._pieces)]
        if all(taken[number] >= 0 for _, taken in pieces):
            columns = np.concatenate([columns[number, : taken[number]] for columns, taken in pieces])
            chosen: Integers = least_hashes(columns, self._keys[number], np.uint64(self._low), self._count)
            return chosen if len(chosen) else None
        return None


def _bound(share: float) -> int:
    """Return the hash up to which are a share of all hashes."""
    return min(max(int(share * 2.0**64), 0), 2**64 - 1)


def _check_count(count: int, columns: int) -> None:
    if not 1 <= count <= columns:
        raise ValueError(f"count is {count}, expected 1 to {columns}")
