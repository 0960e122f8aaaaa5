"""From a chain of torch operations to a program for :mod:`~fedlama.engines.compiled.advance`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlama.engines.base import Values
from fedlama.engines.chain.base import Operation
from fedlama.engines.chain.convolution import Convolution, MaxPool
from fedlama.engines.chain.dense import Dense
from fedlama.engines.chain.shape import EnterImages, Flatten, Relu
from fedlama.engines.compiled.table import ABOVE, BELOW, COLUMNS, CONVOLUTION, DENSE, LANES, POOL, RELU

Row = list[int]


@dataclass(frozen=True)
class Program:
    """A model as a table.

    Attributes:
        table: int64, (operations, columns); see :mod:`~fedlama.engines.compiled.advance`.
        features: Numbers of one input.
        classes: Logits of one sample.
        scratch: Elements of activations and gradients of a block.
        widest: The most numbers of a sample that a weights' gradient turns round.
    """

    table: NDArray[np.int64]
    features: int
    classes: int
    scratch: int
    widest: int

    def room(self, batch: int) -> int:
        """Return the elements of scratch that batches of a size need.

        Args:
            batch: The largest batch.
        """
        turned = self.widest + LANES  # rounded up to whole vectors
        return -(-batch // LANES) * (self.scratch + turned * LANES) + 8 * LANES


def write_program(operations: Sequence[Operation], values: Values, shape: Sequence[int]) -> Program | None:
    """Translate a chain, or return None if a part of it has no compiled form.

    Args:
        operations: As given by :func:`fedlama.engines.chain.translate`.
        values: One client's parameters, by name, in the order of the table of parameters.
        shape: One input's.
    """
    numbers: dict[str | None, int] = {None: -1} | {name: number for number, name in enumerate(values)}
    size: tuple[int, ...] = tuple(shape)
    rows: list[tuple[Row, Row]] = []
    lengths: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for operation in operations:
        if isinstance(operation, EnterImages):
            continue
        if isinstance(operation, Flatten):
            size = (math.prod(size),)
        elif isinstance(operation, Dense):
            outputs, inputs = values[operation.weight].shape
            rows.append(([DENSE, numbers[operation.weight], numbers[operation.bias]], [outputs, inputs]))
            lengths.append((size, (outputs,)))
            size = (outputs,)
        elif isinstance(operation, Convolution) and operation.groups == 1:
            sizes, after = _convolution(operation, size, values)
            rows.append(([CONVOLUTION, numbers[operation.weight], numbers[operation.bias]], sizes))
            lengths.append((size, after))
            size = after
        elif isinstance(operation, MaxPool):
            after = (size[0], *_places(size[1:], operation.size, operation.stride, operation.padding, (1, 1)))
            sizes = [*size, *after[1:], *operation.size, *operation.stride, *operation.padding]
            rows.append(([POOL, -1, -1], sizes))
            lengths.append((size, after))
            size = after
        elif isinstance(operation, Relu):
            rows.append(([RELU, -1, -1], [math.prod(size)]))
            lengths.append((size, size))
        else:
            return None
    return _lay_out(rows, [(math.prod(before), math.prod(after)) for before, after in lengths])


def _convolution(operation: Convolution, size: Sequence[int], values: Values) -> tuple[Row, tuple[int, ...]]:
    outputs, _, *kernel = values[operation.weight].shape
    after = _places(size[1:], kernel, operation.stride, operation.padding, operation.dilation)
    geometry = [*operation.stride, *operation.padding, *operation.dilation]
    return [*size, outputs, *after, *kernel, *geometry], (outputs, *after)


def _places(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Count the positions of a window along both sides."""
    sides = zip(size, window, stride, padding, dilation, strict=True)
    return [(length + 2 * pad - apart * (taps - 1) - 1) // step + 1 for length, taps, step, pad, apart in sides]


def _lay_out(rows: list[tuple[Row, Row]], lengths: list[tuple[int, int]]) -> Program:
    """Give every activation a place of its own, and the gradients two that they use in turns; ReLU works in place."""
    table = np.zeros((len(rows), COLUMNS), np.int64)
    room = max((length for pair in lengths[1:] for length in pair), default=0) * LANES
    here = 2 * room
    end = here + lengths[0][0] * LANES
    for place, ((head, sizes), (_, after)) in enumerate(zip(rows, lengths, strict=True)):
        if head[0] == RELU:
            out = here
        else:
            out, end = end, end + after * LANES
        row = [*head, here, out, 0, 0, *sizes]
        table[place, : len(row)] = row
        here = out
    above = here  # the loss puts its gradient in the logits' place
    for place in range(len(rows) - 1, -1, -1):
        below = above if rows[place][0][0] == RELU else (room if above == 0 else 0)
        table[place, ABOVE], table[place, BELOW] = above, below
        above = below
    turned = [_turned(head[0], sizes) for head, sizes in rows]
    return Program(table, lengths[0][0], lengths[-1][1], end, max(turned))


def _turned(kind: int, sizes: Row) -> int:
    """Count what the weights' gradient needs per sample: a dense layer's inputs, or a convolution's outputs."""
    if kind == DENSE:
        return sizes[1]
    if kind != CONVOLUTION:
        return 0
    outputs, height, width = sizes[3:6]
    return height * width * (-(-outputs // LANES) * LANES)
