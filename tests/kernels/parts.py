"""Single kernels, to be called from tests with NumPy arrays; importing this asks for Numba."""

# ruff: noqa: ANN401 - what Numba compiles has no types in Python's sense

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels import tiling, winograd
from fedlama.kernels.group_norm import GroupNorm, normalise_groups, undo_normalise_groups
from fedlama.kernels.kernel import kernel
from fedlama.kernels.operands import Affine, Images, Target, field
from fedlama.kernels.tiles import (
    ROWS,
    VECTORS,
    add_scaled,
    broadcast,
    floats,
    load,
    load_row,
    store,
    store_some,
    tile,
    transpose,
)
from fedlama.kernels.vectors import exponential

Floats = NDArray[np.float32]


@kernel
def _exponentials(out: Any, x: Any) -> None:
    for start in range(0, len(x), 16):
        store(floats(out), start, 16, exponential(load(floats(x), start)))


def exponentials(x: Floats) -> Floats:
    """Return e to the power of each number; a multiple of sixteen of them."""
    out = np.empty_like(x)
    _exponentials(out, x)
    return out


@kernel
def _transposed(out: Any, x: Any) -> None:
    transpose(floats(out), 0, 16, floats(x), 0, 16)


def transposed(rows: Floats) -> Floats:
    """Return the transpose of 16 x 16 numbers."""
    out = np.empty(256, np.float32)
    _transposed(out, rows.reshape(-1))
    return out.reshape(16, 16)


@kernel
def outer(out: Any, left: Any, right: Any, count: int) -> None:
    """Write 2 plus an outer product, (8, 32), to rows of 40, of the second vector `count` elements only."""
    total = tile(ROWS, VECTORS)
    total = broadcast(total, floats(np.full(1, 2.0, np.float32)), 0, 0)
    total = add_scaled(total, floats(left), 0, 3, load_row(total, floats(right), 0))
    store_some(floats(out), 0, 40, total, 16 + count)


@kernel
def _correlate(out: Any, x: Any, affine: Any, scratch: Any, way: Any) -> None:
    to, own = Images(floats(out[0]), out[1]), Images(floats(x[0]), x[1])
    given = Affine(floats(affine[0]), floats(affine[1]), affine[2])
    if way.size == 3:
        three = winograd.Way(3, way.padding, way.backward, way.add)
        winograd.correlate(winograd.Forms(tile(16, 1), tile(9, 1)), to, own, given, floats(scratch), three)
    else:
        five = winograd.Way(5, way.padding, way.backward, way.add)
        winograd.correlate(winograd.Forms(tile(4, 1), tile(25, 1)), to, own, given, floats(scratch), five)


@kernel
def _weights(target: Any, gradient: Any, x: Any, scratch: Any, size: int, padding: int) -> None:
    goal = Target(floats(target[0]), target[1], target[2])
    above, inputs = Images(floats(gradient[0]), gradient[1]), Images(floats(x[0]), x[1])
    if size == 3:
        forms = winograd.Forms(tile(16, 1), tile(9, 1))
        winograd.add_weight_gradient(forms, goal, above, inputs, floats(scratch), 3, padding)
    else:
        others = winograd.Forms(tile(4, 1), tile(25, 1))
        winograd.add_weight_gradient(others, goal, above, inputs, floats(scratch), 5, padding)


class Convolution:
    """One convolution by Winograd's algorithm, on images given as (batch, channels, height, width).

    Args:
        x: Inputs.
        weight: (outputs, inputs, size, size).
        padding: Rows and columns of zeros.
        margin: Pixels of zeros between which images are stored.
    """

    def __init__(self, x: Floats, weight: Floats, padding: int, margin: int) -> None:
        batch, inputs, height, width = x.shape
        outputs, _, size, _ = weight.shape
        after = height + 2 * padding + 1 - size, width + 2 * padding + 1 - size
        self.own = field(inputs, height, width, margin, batch)
        self.to = field(outputs, *after, margin, batch)
        self.x, self.weight, self.size, self.padding = laid_out(x, self.own), weight.reshape(-1), size, padding
        room = tiling.room((inputs, height, width), (outputs, *after), batch, size)
        self.scratch = np.full(room, np.nan, np.float32)

    def forward(self, bias: Floats | None) -> Floats:
        """Return the outputs."""
        out = laid_out(np.zeros(shape_of(self.to), np.float32), self.to)
        affine = self.weight, self.weight if bias is None else bias, bias is not None
        way = winograd.Way(self.size, self.padding, False, False)
        _correlate((out, self.to), (self.x, self.own), affine, self.scratch, way)
        return taken_out(out, self.to)

    def backward(self, gradient: Floats, before: Floats | None) -> Floats:
        """Return the input's gradient, added to what was there before if that is given."""
        below = laid_out(np.full(shape_of(self.own), np.nan, np.float32) if before is None else before, self.own)
        way = winograd.Way(self.size, self.size - 1 - self.padding, True, before is not None)
        affine = self.weight, self.weight, False
        _correlate((below, self.own), (laid_out(gradient, self.to), self.to), affine, self.scratch, way)
        return taken_out(below, self.own)

    def weights(self, gradient: Floats, before: Floats, scale: float, factor: float) -> Floats:
        """Return scale times what was there before plus factor times the weights' gradient."""
        target = before.reshape(-1).copy(), np.float64(scale), np.float32(factor)
        above = laid_out(gradient, self.to), self.to
        _weights(target, above, (self.x, self.own), self.scratch, self.size, self.padding)
        return target[0].reshape(before.shape)


@kernel
def _groups(out: Any, x: Any, f: Any, weight: Any, bias: Any, statistics: Any, settings: Any) -> None:
    groups, members, relu, epsilon = settings
    norm = GroupNorm(floats(weight), floats(bias), floats(statistics), groups, members, relu, epsilon)
    normalise_groups(floats(out), floats(x), f, norm)


@kernel
def _undo_groups(gradient: Any, x: Any, out: Any, f: Any, weight: Any, statistics: Any, settings: Any) -> Any:
    groups, members, relu, epsilon = settings
    norm = GroupNorm(floats(weight), floats(weight), floats(statistics), groups, members, relu, epsilon)
    sums = np.empty(2 * f.channels, np.float32)
    undo_normalise_groups(floats(gradient), floats(x), floats(out), f, norm, floats(sums))
    return sums


class Groups:
    """One group normalisation, on images given as (batch, channels, height, width).

    Args:
        x: Inputs.
        weight: (channels,).
        groups: How many.
        relu: Whether the output is cut at 0.
        margin: Pixels of zeros between which images are stored.
    """

    def __init__(self, x: Floats, weight: Floats, groups: int, relu: bool, margin: int) -> None:
        batch, channels, height, width = x.shape
        self.form = field(channels, height, width, margin, batch)
        self.x, self.weight = laid_out(x, self.form), weight
        self.out = laid_out(np.zeros_like(x), self.form)
        self.statistics = np.full(2 * groups * -(-batch // 16) * 16, np.nan, np.float32)
        self.settings = groups, channels // groups, relu, np.float32(1e-5)

    def forward(self, bias: Floats) -> Floats:
        """Return the outputs."""
        _groups(self.out, self.x, self.form, self.weight, bias, self.statistics, self.settings)
        return taken_out(self.out, self.form)

    def backward(self, gradient: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the gradients of inputs, weight and bias; after :meth:`forward`."""
        below = laid_out(gradient, self.form)
        sums = _undo_groups(below, self.x, self.out, self.form, self.weight, self.statistics, self.settings)
        return taken_out(below, self.form), sums[self.form.channels :], sums[: self.form.channels]


SLACK = 64
"""Elements after images that vectors may read and never write."""


def shape_of(f: Any) -> tuple[int, int, int, int]:
    """Return (batch, channels, height, width)."""
    return f.batch, f.channels, f.height, f.width


def laid_out(images: Floats, f: Any) -> Floats:
    """Bring images into the kernels' layout, with numbers after them that must not be used."""
    rows = np.zeros((f.channels, f.height, f.row), np.float32)
    rows[:, :, f.left : f.left + f.length] = images.transpose(1, 2, 3, 0).reshape(f.channels, f.height, f.length)
    return np.concatenate([rows.reshape(-1), np.full(SLACK, np.nan, np.float32)])


def taken_out(memory: Floats, f: Any) -> Floats:
    """Undo :func:`laid_out`; nothing beside the rows may have been written."""
    rows = memory[:-SLACK].reshape(f.channels, f.height, f.row)
    assert (rows[:, :, : f.left] == 0).all()
    assert (rows[:, :, f.left + f.length :] == 0).all()
    assert np.isnan(memory[-SLACK:]).all()
    images = rows[:, :, f.left : f.left + f.length].reshape(f.channels, f.height, f.width, f.batch)
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2))
