"""The door for sparse codecs: which numbers of one client's difference are sent, and what is left of it then.

As in :mod:`~fedlama.kernels.codecs`, arrays are checked and go to compiled loops, those of
:mod:`~fedlama.kernels.selection` and :mod:`~fedlama.kernels.hashes`, and nothing here starts a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.arrays import check_array, check_change

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

Stacks = tuple[Floats, Floats]
Change = tuple[Floats, Floats, Floats]

_DEVIATIONS = 6.0
"""Standard deviations between an expected number of hashes and a bound that is taken for sure; see `LeastHashes`."""


class _Notes(NamedTuple):
    """What is noted of some positions for every key.

    Attributes:
        columns: Positions, int64, (keys, room).
        taken: How many there are, int64, (keys,); -1 where there are more than expected.
        sent: How many numbers were sent at other positions, int64, (keys,).
        infinite: Whether some differences were not finite, int64, (keys,).
    """

    columns: Integers
    taken: Integers
    sent: Integers
    infinite: Integers


def keep_differences(
    received: Floats,
    left: Floats,
    values: Floats,
    reference: Floats,
    residual: Floats,
    *,
    bound: float = np.inf,
    past_caches: bool = False,
) -> tuple[Integers, Floats]:
    """Compute the difference of one client's values from a reference as if nothing was sent, and note large numbers.

    Args:
        received: The reference, float32, (columns,); overwritten.
        left: The difference, float32, (columns,); overwritten.
        values: x, float32, (columns,).
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        bound: Differences whose magnitude reaches it are returned, and those that are not numbers; above 0.
        past_caches: Whether results are written past the caches, as is right for large arrays.

    Returns:
        The columns of the differences that reach the bound, int64, (columns,), ascending, and these differences,
        float32, (columns,).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, or the bound is not above 0.
    """
    from fedlama.kernels.selection import keep_changes  # needs Numba

    columns = check_change(values, reference, residual)
    check_array("received", received, np.float32, (columns,))
    check_array("left", left, np.float32, (columns,))
    limit = np.float32(bound)
    if not limit > 0:
        raise ValueError(f"bound is {bound}, expected a number above 0")
    noted: tuple[Integers, Floats] = keep_changes(received, left, values, reference, residual, limit, past_caches)
    return noted


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

    Hashes are distributed evenly, so how many are below a bound is nearly known. Those below a low bound are among the
    smallest ones; :meth:`positions` chooses the others among the few between it and a high bound.

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
        self._low, self._high = (_rank((count + deviation) / elements) for deviation in (-margin, margin))
        self._pieces: dict[int, _Notes] = {}

    def search(self, first: int, end: int) -> None:
        """Note the positions from `first` to `end` whose hashes are small, for every key.

        Args:
            first: The first position.
            end: The position after the last one; at most that of the elements counts.
        """
        from fedlama.kernels.hashes import small_hashes  # needs Numba

        end = min(end, self._elements)
        notes = self._notes(end - first, self._high)
        small_hashes(notes.columns, notes.taken, first, end, self._keys, np.int32(self._high))
        self._pieces[first] = notes

    def send(self, out: Stacks, change: Change, first: int, end: int, *, past_caches: bool = False) -> None:
        """Send the differences of several clients at the positions from `first` to `end` that are surely chosen.

        The others are kept, and :meth:`positions` has those that are still to be sent.

        Args:
            out: What arrives and what is left, float32, (clients, elements) each; the columns of these positions are
                overwritten.
            change: x, float32, (clients, elements), r, float32, (elements,), and e, float32, (clients, elements).
            first: The first position.
            end: The position after the last one; at most that of the elements counts.
            past_caches: Whether results are written past the caches.

        Raises:
            TypeError: An array has another dtype.
            ValueError: The shapes do not fit together, or an array is not contiguous.
        """
        from fedlama.kernels.hashes import send_small  # needs Numba

        shape = len(self._keys), self._elements
        for name, array in (("out[0]", out[0]), ("out[1]", out[1]), ("change[0]", change[0]), ("change[2]", change[2])):
            check_array(name, array, np.float32, shape)
        check_array("change[1]", change[1], np.float32, shape[1:])
        if not first >= 0:
            raise ValueError(f"first is {first}, expected 0 or more")
        end = min(end, self._elements)
        notes, bounds = self._notes(end - first, self._high - self._low), (np.int32(self._low), np.int32(self._high))
        send_small(out, change, self._keys, (first, end), bounds, tuple(notes), past_caches)
        self._pieces[first] = notes

    def positions(self, number: int) -> Integers | None:
        """Return the positions of one key, int64, (count,), ascending, after all positions were searched.

        After :meth:`send` these are the few positions that are still to be sent. None, in less than one of a million
        calls: the bounds have missed the hashes, and all must be sorted.

        Args:
            number: The key's number.
        """
        from fedlama.kernels.hashes import RANK, write_hashes  # needs Numba

        pieces = [self._pieces[first] for first in sorted(self._pieces)]
        wanted = self._count - sum(int(piece.sent[number]) for piece in pieces)
        if wanted < 0 or any(piece.taken[number] < 0 for piece in pieces):
            return None
        columns = np.concatenate([piece.columns[number, : piece.taken[number]] for piece in pieces])
        if wanted == 0:
            return columns[:0]
        low = np.uint64(self._low << RANK if wanted == self._count else 0)
        hashes = np.empty(len(columns), np.uint64)
        write_hashes(hashes, columns, self._keys[number])
        # NumPy selects: its `partition` in a kernel would be as fast, but take as long to compile as twenty kernels.
        above = hashes[hashes > low]
        wanted -= len(columns) - len(above)
        if not 0 <= wanted <= len(above):
            return None
        highest = np.partition(above, wanted - 1)[wanted - 1] if wanted > 0 else low
        return columns[hashes <= highest]

    def is_finite(self, number: int) -> bool:
        """Return whether all differences of one client were finite, after :meth:`send`.

        Args:
            number: The client's number.
        """
        return not any(piece.infinite[number] for piece in self._pieces.values())

    def _notes(self, width: int, ranks: int) -> _Notes:
        """Return room for the positions, among some ones, whose ranks are within a range of some length."""
        from fedlama.kernels.blocks import BLOCK  # needs Numba

        keys, expected = len(self._keys), width * (max(ranks + 1, 0) / 2.0**31)
        room = min(int(expected + 2 * _DEVIATIONS * (expected**0.5 + 1.0)), width) + BLOCK
        return _Notes(np.empty((keys, room), np.int64), *(np.zeros(keys, np.int64) for _ in range(3)))


def _rank(share: float) -> int:
    """Return the rank that a share of all hashes is up to, a number of 31 bits."""
    return min(max(int(share * 2.0**31), 0), 2**31 - 1)


def _check_count(count: int, columns: int) -> None:
    if not 1 <= count <= columns:
        raise ValueError(f"count is {count}, expected 1 to {columns}")
