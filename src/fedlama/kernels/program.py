"""From a model's steps to a program for :mod:`~fedlama.kernels.advance`: kinds, sizes, and places in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels import steps as graph
from fedlama.kernels import table
from fedlama.kernels.regions import Regions, lay_out
from fedlama.kernels.steps import Step, uses
from fedlama.kernels.table import Row, Size
from fedlama.kernels.tiling import pays, room

_DENSE = (table.DENSE, table.LONG_DENSE)
_LOGITS = (*_DENSE, table.SEQUENCE_DENSE)
_WITH_STATISTICS = (*table.NORMS, table.LAYER_NORM, table.ATTENTION)


@dataclass(frozen=True)
class Program:
    """A model as rows.

    Attributes:
        rows: In order.
        sizes: Every value's, by number; value 0 is the data.
        margin: Pixels of zeros that images need beside them.
        regions: Where activations and gradients are stored.
    """

    rows: tuple[Row, ...]
    sizes: Mapping[int, Size]
    margin: int
    regions: Regions = field(repr=False)

    @cached_property
    def classes(self) -> int:
        """Logits of one sample, or of one position."""
        return self.sizes[self.rows[-1].output][-1]

    @cached_property
    def label_shape(self) -> Size:
        """Shape of one sample's classes: (), or (positions,)."""
        return self.sizes[self.rows[-1].output][:-1]

    @cached_property
    def vocabulary(self) -> int:
        """How many tokens there are; 0 if the data are numbers."""
        return max((row.sizes[0] for row in self.rows if row.kind == table.EMBEDDING), default=0)

    @property
    def masks(self) -> list[tuple[Size, float]]:
        """One sample's dropout masks, in order: their sizes and rates."""
        return [(self.sizes[row.output], row.constants[0]) for row in self.rows if row.kind == table.DROPOUT]

    @property
    def multiply_adds(self) -> int:
        """Multiplications of one sample's forward pass."""
        dense = sum(math.prod(row.sizes[:2]) for row in self.rows if row.kind in _DENSE)
        dense += sum(math.prod(row.sizes) for row in self.rows if row.kind == table.SEQUENCE_DENSE)
        # sizes: positions, width, ...; two products, of each position with those that it sees
        dense += sum(
            row.sizes[0] * (row.sizes[0] + 1) * row.sizes[1] for row in self.rows if row.kind == table.ATTENTION
        )
        # sizes: inputs, height, width, outputs, their height and width, the kernel's height and width, ...
        images = [row.sizes for row in self.rows if row.kind in table.CONVOLUTIONS]
        return dense + sum(sizes[0] * math.prod(sizes[3:8]) for sizes in images)

    def write_table(self, batch: int, names: Sequence[str], trained: Iterable[str]) -> tuple[NDArray[np.int64], int]:
        """Write the table of :mod:`~fedlama.kernels.table`, without the addresses of machine code.

        Args:
            batch: The largest batch.
            names: Parameters and running statistics, in the order of their table.
            trained: Those that are trained.

        Returns:
            int64, (operations, COLUMNS), and the elements of scratch that it refers to.
        """
        positions: dict[str | None, int] = {None: -1} | {name: position for position, name in enumerate(names)}
        spans, end = self._spans(batch)
        wanted = self._wanted(set(trained))
        rows = np.zeros((len(self.rows), table.COLUMNS), np.int64)
        masks = 0
        for out, row in zip(rows, self.rows, strict=True):
            tensors = [positions[name] for name in row.names]
            out[table.WEIGHT : table.WEIGHT + 4] = [*tensors, *[-1] * (4 - len(tensors))]
            extra = (0, 0)
            if row.kind == table.DROPOUT:
                extra = spans[self.regions.masks[row.output]]
                out[table.FIRST_SIZE + 3] = masks
                masks += math.prod(self.sizes[row.output])
            elif row.kind in _WITH_STATISTICS:
                extra = end, end + _statistics(row, batch)
                end = extra[1]
            regions = [*self._regions_of(row, spans), extra]
            out[table.IN : table.IN + table.TO_END] = [first for first, _ in regions]
            out[table.IN + table.TO_END : table.IN + 2 * table.TO_END] = [last for _, last in regions]
            out[[table.ADDS, table.ADDS_OTHER]] = self.regions.adds[row.output]
            out[[table.WANTED, table.WANTED_OTHER]] = [value in wanted for value in (row.inputs[0], row.inputs[-1])]
            out[table.ACTIVE] = row.output in wanted
            out[table.IMAGES] = len(self.sizes[row.output]) == 3
            out[table.SAMPLES] = row.inputs[0] == 0 and len(self.sizes[0]) == 1 and self.sizes[0][0] % table.LANES == 0
            out[table.FIRST_SIZE : table.FIRST_SIZE + len(row.sizes)] = row.sizes
        return rows, -(-end // table.LANES) * table.LANES

    @cached_property
    def updating(self) -> frozenset[str]:
        """Weights that are trained within the backward pass of their operation."""
        return frozenset(row.names[0] or "" for row in self.rows if row.kind == table.LONG_DENSE)

    def spare(self, batch: int) -> int:
        """Return the elements of scratch that an operation or the loss may use while it runs.

        Args:
            batch: The largest batch.
        """
        return max(_spare(row, batch) for row in self.rows) + 8 * table.LANES

    def _regions_of(self, row: Row, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return where input, other input, output, and the gradients of output and inputs are; (0, 0) for none."""
        values, gradients = self.regions.values, self.regions.gradients
        first, last = row.inputs[0], row.inputs[-1]
        numbers = [values[first], values[last], values[row.output]]
        numbers += [gradients.get(value, -1) for value in (row.output, first, last)]
        return [spans[number] if number >= 0 else (0, 0) for number in numbers]

    def _spans(self, batch: int) -> tuple[list[tuple[int, int]], int]:
        """Return where each region begins and ends, and where the last one ends."""
        spans, end = [], 0
        for size in self.regions.sizes:
            begin = end
            end += elements(size, self.margin, batch) + 4 * table.LANES  # vectors may reach a little beyond the numbers
            spans.append((begin, end))
        return spans, end

    def _wanted(self, trained: set[str]) -> set[int]:
        """Return the values whose gradients are needed: those that depend on something trained."""
        wanted: set[int] = set()
        for row in self.rows:
            if trained.intersection(name for name in row.names if name) or wanted.intersection(row.inputs):
                wanted.add(row.output)
        return wanted


def elements(size: Size, margin: int, batch: int) -> int:
    """Return the elements of an activation.

    Args:
        size: Its size.
        margin: Pixels of zeros beside images.
        batch: Samples.
    """
    if len(size) < 3:
        return math.prod(size) * -(-batch // table.LANES) * table.LANES
    channels, height, width = size
    return channels * height * table.row_elements(width, margin, batch)[1]


def _statistics(row: Row, batch: int) -> int:
    """Return the elements of a normalisation's statistics: two for a channel, a sample's group or a sample's position.

    Those of an attention are its weights.
    """
    vectors = -(-batch // table.LANES) * table.LANES
    if row.kind == table.NORM:
        return 2 * row.sizes[0]
    if row.kind == table.ATTENTION:
        positions, _, heads, _, span = row.sizes
        return heads * positions * span * vectors
    return 2 * row.sizes[1 if row.kind == table.LAYER_NORM else 4] * vectors


def _spare(row: Row, batch: int) -> int:
    """Return the elements that an operation transposes: a dense layer's inputs, or a convolution's outputs."""
    lanes = table.LANES
    if row.kind in _SEQUENCE_SPARE:
        return _SEQUENCE_SPARE[row.kind](row.sizes)
    if row.kind in _DENSE:
        blocks, wide = -(-batch // lanes), -(-row.sizes[1] // lanes) * lanes
        long = blocks * lanes * (wide + 4 * lanes) + 4 * lanes * lanes
        return blocks * lanes * wide + lanes * lanes + (long if row.kind == table.LONG_DENSE else 0)
    if row.kind in (table.WINOGRAD_3, table.WINOGRAD_5):
        return room(row.sizes[:3], row.sizes[3:6], batch, row.sizes[6])
    if row.kind != table.CONVOLUTION:
        return 2 * row.sizes[0] + lanes if row.kind in table.NORMS else 2 * lanes
    outputs, height, width = row.sizes[3:6]
    taps = -(-math.prod(row.sizes[6:8]) // lanes) * lanes
    return (height * width * batch + lanes) * (-(-outputs // lanes) * lanes) + 8 * lanes * taps + lanes * lanes


def _spare_of_dense(sizes: Size) -> int:
    """Return the room for the weights in the order of tiles, in both directions, and for the sums of their gradient."""
    rows, columns, _ = sizes
    wide, more = -(-columns // table.LANES) * table.LANES, (table.TOGETHER + 1) * table.LANES
    return max((columns + more) * rows, (rows + more) * wide)


_SEQUENCE_SPARE: Mapping[int, Callable[[Size], int]] = {
    table.SEQUENCE_DENSE: _spare_of_dense,
    table.LAYER_NORM: lambda sizes: 2 * sizes[0] * (table.LANES + 1),  # features
    table.EMBEDDING: lambda sizes: (sizes[0] + table.LANES) * sizes[1] + table.LANES**2,  # rows, features
    table.ADD_POSITIONS: lambda sizes: sizes[0] * sizes[1],  # rows, features
    # positions, ..., the stride of a position, the span of weights
    table.ATTENTION: lambda sizes: 4 * (sizes[0] + 1) * sizes[3] + sizes[0] * sizes[4] * table.LANES,
}
"""The elements that an operation on sequences needs while it runs, by its sizes."""


def write_program(
    steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], shape: Sequence[int], batch: int
) -> Program | None:
    """Translate a model, or return None if there is no kernel for a part of it.

    Args:
        steps: As read.
        shapes: Every parameter's.
        shape: One input's.
        batch: The federation's usual batch; the choice of kernels depends on it, never on a client's own.
    """
    try:
        rows, sizes = _Writing(graph.pool_before_relu(steps), shapes, shape, batch).write()
    except _NoFormError:
        return None
    regions = lay_out(rows, sizes)
    return None if regions is None else Program(tuple(rows), sizes, _margin(rows), regions)


class _NoFormError(Exception):
    """There is no kernel for a step."""


class _Writing:
    """Goes along the steps and keeps every value's size."""

    def __init__(
        self, steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], shape: Sequence[int], batch: int
    ) -> None:
        self._steps, self._shapes, self._batch = steps, shapes, batch
        self._sizes: dict[int, Size] = {0: tuple(shape)}
        self._same = {0: 0}  # by value, the value that has the same numbers in the same order
        self._rows: list[Row] = []

    def write(self) -> tuple[list[Row], dict[int, Size]]:
        """Return the rows, and the sizes of all values."""
        for number, step in enumerate(self._steps, 1):
            inputs = tuple(self._same[value] for value in step.inputs)
            self._same[number] = number
            size = self._sizes[inputs[0]]
            self._translate(step.operation, inputs, number, size)
        if len(self._sizes[0]) not in (1, 3) or self._rows[-1].kind not in _LOGITS:
            raise _NoFormError
        return _norm_with_relu(self._rows), self._sizes

    def _translate(self, operation: graph.Operation, inputs: tuple[int, ...], number: int, size: Size) -> None:
        if isinstance(operation, graph.Flatten):
            self._flatten(inputs, number, size)
        elif isinstance(operation, graph.Dense) and len(size) == 2:
            outputs, width = self._shapes[operation.weight]
            _insist(size[1] == width and min(outputs, width) >= table.NARROW)
            names, after = (operation.weight, operation.bias), (size[0], outputs)
            self._add(table.SEQUENCE_DENSE, inputs, number, after, names, (outputs, width, size[0]))
        elif isinstance(operation, graph.Dense):
            outputs, width = self._shapes[operation.weight]
            _insist(size == (width,))
            long = outputs * width >= table.LONG and outputs >= 4 and width % table.LANES == 0
            names = operation.weight, operation.bias
            kind = table.LONG_DENSE if long else table.DENSE
            self._add(kind, inputs, number, (outputs,), names, (outputs, width))
        elif isinstance(operation, graph.Relu | graph.Dropout):
            _insist(inputs != (0,))
            drops = isinstance(operation, graph.Dropout)
            self._add(table.DROPOUT if drops else table.RELU, inputs, number, size, sizes=_elementwise(size))
            if isinstance(operation, graph.Dropout):
                self._rows[-1] = replace(self._rows[-1], constants=(operation.rate, 0.0))
        elif isinstance(operation, graph.Add):
            _insist(all(self._sizes[value] == size for value in inputs) and 0 not in inputs)
            if len(size) == 2 and uses(self._steps)[inputs[1]] == 1:  # the sum works in place on its first input
                inputs = inputs[::-1]
            self._add(table.ADD, inputs, number, size, sizes=_elementwise(size))
        elif isinstance(operation, graph.LayerNorm | graph.Gelu):
            _insist(len(size) < 3 and inputs != (0,))
            self._translate_features(operation, inputs, number, size)
        elif isinstance(operation, graph.Embedding):
            rows, width = self._shapes[operation.weight]
            _insist(inputs == (0,) and len(size) == 1 and uses(self._steps)[0] == 1 and rows < table.TOKENS)
            sizes = rows, width, size[0]
            self._add(table.EMBEDDING, inputs, number, (size[0], width), (operation.weight,), sizes)
        elif isinstance(operation, graph.AddPositions | graph.Attention):
            _insist(len(size) == 2)
            self._translate_sequences(operation, inputs, number, size)
        else:
            _insist(len(size) == 3)
            self._translate_images(operation, inputs, number, size)

    def _translate_features(
        self, operation: graph.LayerNorm | graph.Gelu, inputs: tuple[int, ...], number: int, size: Size
    ) -> None:
        if isinstance(operation, graph.LayerNorm):
            _insist(tuple(self._shapes[operation.weight]) == size[-1:])
            names, constants = (operation.weight, operation.bias), (0.0, operation.epsilon)
            sizes = size[-1], math.prod(size[:-1])
            self._rows.append(Row(table.LAYER_NORM, inputs, number, names, None, sizes, constants))
            self._sizes[number] = size
        else:  # it writes its derivative over its input
            makers = [row.kind for row in self._rows if row.output == inputs[0]]
            _insist(makers[0] in (*_LOGITS, table.LAYER_NORM))
            self._add(table.GELU, inputs, number, size, sizes=_elementwise(size))

    def _translate_sequences(
        self, operation: graph.AddPositions | graph.Attention, inputs: tuple[int, ...], number: int, size: Size
    ) -> None:
        positions = size[0]
        if isinstance(operation, graph.AddPositions):
            rows, width = self._shapes[operation.weight]
            _insist(rows >= positions and width == size[1])
            self._add(table.ADD_POSITIONS, inputs, number, size, (operation.weight,), (rows, width, positions))
        else:
            width, rest = divmod(size[1], 3)
            _insist(rest == 0 and width % (2 * operation.heads) == 0 and positions >= table.SEEN)
            stride = (width // operation.heads | 1) * table.LANES
            sizes = positions, width, operation.heads, stride, table.attention_span(positions)
            self._add(table.ATTENTION, inputs, number, (positions, width), sizes=sizes)

    def _translate_images(self, operation: graph.Operation, inputs: tuple[int, ...], number: int, size: Size) -> None:
        if isinstance(operation, graph.Convolution):
            outputs, channels, *kernel = self._shapes[operation.weight]
            _insist(operation.groups == 1 and channels == size[0])
            positions = _positions(size[1:], kernel, operation.stride, operation.padding, operation.dilation)
            after, window = (outputs, *positions), (*kernel, *operation.stride, *operation.padding, *operation.dilation)
            names = operation.weight, operation.bias
            kind = _convolution(size, after, window, self._batch)
            self._add(kind, inputs, number, after, names, (*size, *after, *window))
        elif isinstance(operation, graph.MaxPool | graph.MeanPool):
            after = size[0], *_positions(size[1:], operation.size, operation.stride, operation.padding, (1, 1))
            window = *operation.size, *operation.stride, *operation.padding
            kind = table.POOL if isinstance(operation, graph.MaxPool) else table.MEAN_POOL
            self._add(kind, inputs, number, after, sizes=(*size, *after, *window))
        elif isinstance(operation, graph.Norm):
            _insist(inputs != (0,))
            running = operation.weight, operation.bias, operation.mean, operation.variance
            constants = operation.momentum, operation.epsilon
            self._rows.append(Row(table.NORM, inputs, number, running, operation.count, (*size, 0), constants))
            self._sizes[number] = size
        elif isinstance(operation, graph.GroupNorm):
            _insist(inputs != (0,) and size[0] % operation.groups == 0)
            sizes = *size, 0, operation.groups, size[0] // operation.groups
            names, constants = (operation.weight, operation.bias), (0.0, operation.epsilon)
            self._rows.append(Row(table.GROUP_NORM, inputs, number, names, None, sizes, constants))
            self._sizes[number] = size
        else:
            assert isinstance(operation, graph.Mean)
            self._add(table.MEAN, inputs, number, size[:1], sizes=size)

    def _flatten(self, inputs: tuple[int, ...], number: int, size: Size) -> None:
        """Flatten; the data are flat from the beginning if this is their only use."""
        _insist(len(size) != 2)
        flat = (math.prod(size),)
        if inputs == (0,) and uses(self._steps)[0] == 1:
            self._sizes[0] = flat
        if len(size) == 1 or inputs == (0,):
            _insist(self._sizes[inputs[0]] == flat)
            self._same[number] = inputs[0]
        else:
            self._add(table.FLATTEN, inputs, number, flat, sizes=size)

    def _add(
        self,
        kind: int,
        inputs: tuple[int, ...],
        number: int,
        after: Size,
        names: tuple[str | None, ...] = (),
        sizes: tuple[int, ...] = (),
    ) -> None:
        _insist(min(after) > 0)
        self._sizes[number] = after
        self._rows.append(Row(kind, inputs, number, names, sizes=sizes))


def _elementwise(size: Size) -> Size:
    """Return the sizes that an operation on single numbers asks for: an image's, or how many features there are."""
    return size if len(size) == 3 else (math.prod(size), 0, 0)


def _insist(condition: bool) -> None:
    if not condition:
        raise _NoFormError


def _positions(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Return how many positions a window has along both sides."""
    sides = zip(size, window, stride, padding, dilation, strict=True)
    return tuple((length + 2 * pad - apart * (taps - 1) - 1) // step + 1 for length, taps, step, pad, apart in sides)


def _convolution(inputs: Size, outputs: Size, window: Sequence[int], batch: int) -> int:
    """Choose a convolution's kernels."""
    height, width, *moves, top, left, below, beside = window
    plain = height == width and top == left and [*moves, below, beside] == [1, 1, 1, 1]
    if plain and pays(inputs, outputs, batch, height, top):
        return table.WINOGRAD_3 if height == 3 else table.WINOGRAD_5
    return table.CONVOLUTION


def _norm_with_relu(rows: Sequence[Row]) -> list[Row]:
    """Let a normalisation do the ReLU that alone follows it, which saves a pass over the memory."""
    counts = [value for row in rows for value in row.inputs]
    done: list[Row] = []
    for row in rows:
        before = done[-1] if done else None
        if (
            before is not None
            and row.kind == table.RELU
            and before.kind in table.NORMS
            and row.inputs == (before.output,)
            and counts.count(before.output) == 1
        ):
            done[-1] = replace(before, output=row.output, sizes=(*before.sizes[:3], 1, *before.sizes[4:]))
        else:
            done.append(row)
    return done


def _margin(rows: Iterable[Row]) -> int:
    """Return how far taps reach over the edge: forward, and backward where a convolution's pixels are neighbours.

    With strides too a vector may begin with samples of the pixel before the first one, which must be zeros. Winograd's
    kernels access nothing beside an image.
    """
    reach = 0
    for row in rows:
        if row.kind == table.CONVOLUTION:
            _, taps, _, step, _, padding, _, dilation = row.sizes[6:]
            reach = max(reach, padding, (taps - 1) * dilation - padding if step == 1 else 0)
    return reach
