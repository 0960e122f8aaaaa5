"""From a model's steps to a program for :mod:`~fedlama.kernels.advance`: kinds, sizes, and what lies where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels import steps as graph
from fedlama.kernels import table
from fedlama.kernels.regions import Regions, lay_out
from fedlama.kernels.steps import Step, uses
from fedlama.kernels.tiling import pays, room

Size: TypeAlias = tuple[int, ...]
"""(channels, height, width) of images, or (features,)."""


_DENSE = (table.DENSE, table.LONG_DENSE)


@dataclass(frozen=True)
class Row:
    """One operation.

    Attributes:
        kind: See :mod:`~fedlama.kernels.table`.
        inputs: The values it takes.
        output: The value it makes.
        names: Weight, bias, running mean and running variance, as far as it has them.
        count: The buffer that counts its batches, if any.
        sizes: What its kernels ask for.
        reals: Two numbers that are not whole.
    """

    kind: int
    inputs: tuple[int, ...]
    output: int
    names: tuple[str | None, ...] = ()
    count: str | None = None
    sizes: tuple[int, ...] = ()
    reals: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Program:
    """A model as rows.

    Attributes:
        rows: In order.
        sizes: Every value's, by number; value 0 is the data.
        margin: Pixels of zeros that images need beside them.
        regions: Where activations and gradients lie.
    """

    rows: tuple[Row, ...]
    sizes: Mapping[int, Size]
    margin: int
    regions: Regions = field(repr=False)

    @property
    def classes(self) -> int:
        """Logits of one sample."""
        return self.sizes[self.rows[-1].output][0]

    @property
    def masks(self) -> list[tuple[Size, float]]:
        """One sample's dropout masks, in order: their sizes and rates."""
        return [(self.sizes[row.output], row.reals[0]) for row in self.rows if row.kind == table.DROPOUT]

    @property
    def products(self) -> int:
        """Multiplications of one sample's forward pass."""
        dense = sum(math.prod(row.sizes[:2]) for row in self.rows if row.kind in _DENSE)
        # sizes: inputs, height, width, outputs, their height and width, the kernel's height and width, ...
        images = [row.sizes for row in self.rows if row.kind in table.CONVOLUTIONS]
        return dense + sum(sizes[0] * math.prod(sizes[3:8]) for sizes in images)

    def place(self, batch: int, names: Sequence[str], trained: Iterable[str]) -> tuple[NDArray[np.int64], int]:
        """Write the table, and count the elements of scratch that it takes.

        Args:
            batch: The largest batch.
            names: Parameters and buffers, in the order of their table.
            trained: Those that are trained.
        """
        numbers: dict[str | None, int] = {None: -1} | {name: number for number, name in enumerate(names)}
        offsets, end = self._offsets(batch)
        wanted = self._wanted(set(trained))
        rows = np.zeros((len(self.rows), table.COLUMNS), np.int64)
        masks = 0
        for out, row in zip(rows, self.rows, strict=True):
            own = [numbers[name] for name in row.names]
            out[table.WEIGHT : table.WEIGHT + 4] = [*own, *[-1] * (4 - len(own))]
            first, second = row.inputs[0], row.inputs[-1]
            regions = self.regions
            places = [regions.values[first], regions.values[second], regions.values[row.output]]
            gradients = [regions.gradients.get(value, -1) for value in (row.output, first, second)]
            out[table.IN : table.IN + 6] = [offsets[place] if place >= 0 else 0 for place in (*places, *gradients)]
            out[[table.ADDS, table.ADDS_BESIDE]] = regions.adds[row.output]
            out[[table.WANTED, table.WANTED_BESIDE]] = [value in wanted for value in (first, second)]
            out[table.ACTIVE] = row.output in wanted
            out[table.IMAGES] = len(self.sizes[row.output]) == 3
            if row.kind == table.DROPOUT:
                out[table.EXTRA] = offsets[regions.masks[row.output]]
                out[table.FIRST_SIZE + 3] = masks
                masks += math.prod(self.sizes[row.output])
            elif row.kind == table.NORM:
                out[table.EXTRA] = end
                end += 2 * row.sizes[0]
            out[table.FIRST_SIZE : table.FIRST_SIZE + len(row.sizes)] = row.sizes
        return rows, -(-end // table.LANES) * table.LANES

    @property
    def moving(self) -> frozenset[str]:
        """Weights that a kernel of their own takes the solver's step of."""
        return frozenset(row.names[0] or "" for row in self.rows if row.kind == table.LONG_DENSE)

    def spare(self, batch: int) -> int:
        """Count the elements that weights' gradients and the loss need for a while.

        Args:
            batch: The largest batch.
        """
        return max(_spare(row, batch) for row in self.rows) + 8 * table.LANES

    def _offsets(self, batch: int) -> tuple[list[int], int]:
        """Return where each region begins, and where the last one ends."""
        offsets, end = [], 0
        for size in self.regions.sizes:
            offsets.append(end)
            end += elements(size, self.margin, batch) + 4 * table.LANES  # vectors may reach a little beyond
        return offsets, end

    def _wanted(self, trained: set[str]) -> set[int]:
        """Return the values whose gradients are needed: those that something trained has a part in."""
        wanted: set[int] = set()
        for row in self.rows:
            if trained.intersection(name for name in row.names if name) or wanted.intersection(row.inputs):
                wanted.add(row.output)
        return wanted


def elements(size: Size, margin: int, batch: int) -> int:
    """Count the elements of an activation.

    Args:
        size: Its size.
        margin: Pixels of zeros beside images.
        batch: Samples.
    """
    if len(size) == 1:
        return size[0] * -(-batch // table.LANES) * table.LANES
    channels, height, width = size
    return channels * height * table.row_elements(width, margin, batch)[1]


def _spare(row: Row, batch: int) -> int:
    """Count what a weights' gradient turns round: a dense layer's inputs, or a convolution's outputs."""
    lanes = table.LANES
    if row.kind in _DENSE:
        blocks, wide = -(-batch // lanes), -(-row.sizes[1] // lanes) * lanes
        long = blocks * lanes * (wide + 4 * lanes) + 4 * lanes * lanes
        return blocks * lanes * wide + lanes * lanes + (long if row.kind == table.LONG_DENSE else 0)
    if row.kind in (table.WINOGRAD_3, table.WINOGRAD_5):
        return room(row.sizes[:3], row.sizes[3:6], batch, row.sizes[6])
    if row.kind != table.CONVOLUTION:
        return 2 * row.sizes[0] + lanes if row.kind == table.NORM else 2 * lanes
    outputs, height, width = row.sizes[3:6]
    taps = -(-math.prod(row.sizes[6:8]) // lanes) * lanes
    return (height * width * batch + lanes) * (-(-outputs // lanes) * lanes) + 8 * lanes * taps + lanes * lanes


def write_program(
    steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], shape: Sequence[int], batch: int
) -> Program | None:
    """Translate a model, or return None if a part of it has no compiled form.

    Args:
        steps: As read.
        shapes: Every parameter's.
        shape: One input's.
        batch: The federation's usual batch; which kernels are the faster ones depends on it, never a client's own.
    """
    try:
        rows, sizes = _Writing(graph.pool_before_relu(steps), shapes, shape, batch).write()
    except _NoFormError:
        return None
    regions = lay_out(rows, sizes)
    return None if regions is None else Program(tuple(rows), sizes, _margin(rows), regions)


class _NoFormError(Exception):
    """A step has no compiled form."""


class _Writing:
    """Goes along the steps and keeps every value's size."""

    def __init__(
        self, steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], shape: Sequence[int], batch: int
    ) -> None:
        self._steps, self._shapes, self._batch = steps, shapes, batch
        self._sizes: dict[int, Size] = {0: tuple(shape)}
        self._same = {0: 0}  # values that only go by another name
        self._rows: list[Row] = []

    def write(self) -> tuple[list[Row], dict[int, Size]]:
        for number, step in enumerate(self._steps, 1):
            inputs = tuple(self._same[value] for value in step.inputs)
            self._same[number] = number
            size = self._sizes[inputs[0]]
            self._take(step.operation, inputs, number, size)
        if len(self._sizes[0]) not in (1, 3) or self._rows[-1].kind not in _DENSE:
            raise _NoFormError
        return _norm_with_relu(self._rows), self._sizes

    def _take(self, operation: graph.Operation, inputs: tuple[int, ...], number: int, size: Size) -> None:
        images = len(size) == 3
        if isinstance(operation, graph.Flatten):
            self._flatten(inputs, number, size)
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
            self._add(table.DROPOUT if drops else table.RELU, inputs, number, size, sizes=(*size, 0, 0)[:3])
            if isinstance(operation, graph.Dropout):
                self._rows[-1] = replace(self._rows[-1], reals=(operation.rate, 0.0))
        elif isinstance(operation, graph.Add):
            _insist(all(self._sizes[value] == size for value in inputs) and 0 not in inputs)
            self._add(table.ADD, inputs, number, size, sizes=(*size, 0, 0)[:3])
        else:
            _insist(images)
            self._take_images(operation, inputs, number, size)

    def _take_images(self, operation: graph.Operation, inputs: tuple[int, ...], number: int, size: Size) -> None:
        if isinstance(operation, graph.Convolution):
            outputs, channels, *kernel = self._shapes[operation.weight]
            _insist(operation.groups == 1 and channels == size[0])
            places = _places(size[1:], kernel, operation.stride, operation.padding, operation.dilation)
            after, window = (outputs, *places), (*kernel, *operation.stride, *operation.padding, *operation.dilation)
            names = operation.weight, operation.bias
            kind = _convolution(size, after, window, self._batch)
            self._add(kind, inputs, number, after, names, (*size, *after, *window))
        elif isinstance(operation, graph.MaxPool | graph.MeanPool):
            after = size[0], *_places(size[1:], operation.size, operation.stride, operation.padding, (1, 1))
            window = *operation.size, *operation.stride, *operation.padding
            kind = table.POOL if isinstance(operation, graph.MaxPool) else table.MEAN_POOL
            self._add(kind, inputs, number, after, sizes=(*size, *after, *window))
        elif isinstance(operation, graph.Norm):
            _insist(inputs != (0,))
            running = operation.weight, operation.bias, operation.mean, operation.variance
            reals = operation.momentum, operation.epsilon
            self._rows.append(Row(table.NORM, inputs, number, running, operation.count, (*size, 0), reals))
            self._sizes[number] = size
        else:
            assert isinstance(operation, graph.Mean)
            self._add(table.MEAN, inputs, number, size[:1], sizes=size)

    def _flatten(self, inputs: tuple[int, ...], number: int, size: Size) -> None:
        """Data are flat from the beginning if this is the only use of them."""
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


def _insist(true: bool) -> None:
    if not true:
        raise _NoFormError


def _places(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Count the positions of a window along both sides."""
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
    """Let a normalisation do the ReLU that alone follows it, which saves a way through the memory."""
    counts = [value for row in rows for value in row.inputs]
    done: list[Row] = []
    for row in rows:
        before = done[-1] if done else None
        if (
            before is not None
            and row.kind == table.RELU
            and before.kind == table.NORM
            and row.inputs == (before.output,)
            and counts.count(before.output) == 1
        ):
            done[-1] = replace(before, output=row.output, sizes=(*before.sizes[:3], 1))
        else:
            done.append(row)
    return done


def _margin(rows: Iterable[Row]) -> int:
    """Return how far taps reach over the edge: forward, and backward where a convolution's pixels are neighbours.

    Also with strides a vector may begin with samples of the pixel before the first one, which must be zeros. Winograd's
    kernels look at nothing beside an image.
    """
    reach = 0
    for row in rows:
        if row.kind == table.CONVOLUTION:
            _, taps, _, step, _, padding, _, dilation = row.sizes[6:]
            reach = max(reach, padding, (taps - 1) * dilation - padding if step == 1 else 0)
    return reach
