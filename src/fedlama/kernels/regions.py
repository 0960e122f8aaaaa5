"""Where the activations and gradients of a program are stored: in as few regions as the backward pass allows.

Some operations work in place. A gradient's region is given to the next gradient of the same size as soon as it is not
needed any more, and only of the same size: the zeros beside the rows of an image then stay where they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlama.kernels import table
from fedlama.kernels.table import Row, Size

_IN_PLACE_GRADIENT = (table.RELU, table.DROPOUT, table.GELU, table.ADD_POSITIONS, *table.NORMS)
_ADDING_GRADIENT = (*table.CONVOLUTIONS, table.LAYER_NORM)
_UNREAD = (*table.CONVOLUTIONS, *table.NORMS, table.SEQUENCE_DENSE, table.EMBEDDING)
"""Operations whose backward pass does not read their output."""


@dataclass(frozen=True)
class Regions:
    """The regions of a program.

    Attributes:
        sizes: The size of what each stores.
        values: By value, the number of its region.
        gradients: By value, the number of its gradient's region, for values that have one.
        masks: By the output of a dropout, the number of its mask's region.
        adds: By a row's output, whether it adds to the gradients of its inputs (the first's, the last's).
    """

    sizes: tuple[Size, ...]
    values: Mapping[int, int]
    gradients: Mapping[int, int]
    masks: Mapping[int, int]
    adds: Mapping[int, tuple[bool, bool]]


def lay_out(rows: Sequence[Row], sizes: Mapping[int, Size]) -> Regions | None:
    """Give every value a region, or return None if an operation would have to add gradients but has no kernel for it.

    Args:
        rows: The program.
        sizes: Every value's.
    """
    counts = Counter(value for row in rows for value in row.inputs)
    shared = any(row.kind in _IN_PLACE_GRADIENT and counts[row.inputs[0]] > 1 for row in rows)
    if shared or any(counts[row.output] == 0 for row in rows[:-1]):
        return None
    regions: list[Size] = []
    values = _values(rows, sizes, counts, regions)
    masks = {row.output: _new(regions, sizes[row.output]) for row in rows if row.kind == table.DROPOUT}
    backward = _Backward(rows, sizes, counts, regions, values[rows[-1].output])
    if not backward.possible:
        return None
    return Regions(tuple(regions), values, backward.gradients, masks, backward.adds)


def _new(regions: list[Size], size: Size) -> int:
    regions.append(size)
    return len(regions) - 1


def _values(
    rows: Sequence[Row], sizes: Mapping[int, Size], counts: Mapping[int, int], regions: list[Size]
) -> dict[int, int]:
    """Lay out activations: ReLU works in place, and so do sums onto an input that is not read again."""
    values = {0: _new(regions, sizes[0])}
    makers = {row.output: row.kind for row in rows}
    for row in rows:
        first = row.inputs[0]
        unread = makers.get(first) in _UNREAD and counts[first] == 1
        sums = row.kind in (table.ADD, table.ADD_POSITIONS)
        if row.kind == table.RELU or (sums and unread and not _fused(rows, first)):
            values[row.output] = values[first]
        else:
            values[row.output] = _new(regions, sizes[row.output])
    return values


def _fused(rows: Sequence[Row], value: int) -> bool:
    """Return whether a value comes from a normalisation with ReLU, whose backward pass reads it again."""
    return any(row.output == value and row.kind in table.NORMS and row.sizes[3] for row in rows)


class _Backward:
    """Goes through the rows from the last to the first and assigns regions."""

    def __init__(
        self, rows: Sequence[Row], sizes: Mapping[int, Size], counts: Mapping[int, int], regions: list[Size], last: int
    ) -> None:
        self.gradients = {rows[-1].output: last}  # the loss replaces the logits by their gradient
        self.adds: dict[int, tuple[bool, bool]] = {}
        self.possible = True
        self._sizes, self._counts, self._regions = sizes, counts, regions
        self._free: dict[Size, list[int]] = defaultdict(list)
        for row in reversed(rows):
            self._undo(row)

    def _undo(self, row: Row) -> None:
        above, first = self.gradients[row.output], row.inputs[0]
        kept = False
        adds = [False, False]
        if row.kind in _IN_PLACE_GRADIENT:
            self.gradients[first], kept = above, True
        elif row.kind == table.ADD:
            kept = self._counts[first] == 1
            if kept:
                self.gradients[first] = above
            for position, value in enumerate(row.inputs):
                if not (kept and position == 0):
                    adds[position] = self._assign(value)
        elif first != 0:
            adds[0] = self._assign(first)
            self.possible &= row.kind in _ADDING_GRADIENT or not adds[0]
        self.adds[row.output] = (adds[0], adds[-1])
        if not kept:
            self._free[self._sizes[row.output]].append(above)

    def _assign(self, value: int) -> bool:
        """Make sure that a value's gradient has a region; return whether it had one before."""
        if value in self.gradients:
            return True
        free = self._free[self._sizes[value]]
        self.gradients[value] = free.pop() if free else _new(self._regions, self._sizes[value])
        return False
