"""Single instructions of compiled kernels, to be called from tests; importing this asks for Numba."""

# ruff: noqa: ANN401 - what Numba compiles has no types in Python's sense

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels import tiling, winograd
from fedlama.kernels.images import field
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import exponential, floats, load, quarter, square, store, turn
from fedlama.kernels.transforms import nine, twenty_five


@kernel
def _exponentials(out: Any, x: Any) -> None:
    for place in range(0, len(x), 16):
        store(floats(out.ctypes.data), place, 16, exponential(load(floats(x.ctypes.data), place)))


def exponentials(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return e to the power of each number; a multiple of sixteen of them."""
    out = np.empty_like(x)
    _exponentials(out, x)
    return out


@kernel
def _transposed(out: Any, x: Any) -> None:
    turn(floats(out.ctypes.data), 0, 16, floats(x.ctypes.data), 0, 16)


def transposed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the transpose of 16 x 16 numbers."""
    out = np.empty(256, np.float32)
    _transposed(out, rows.reshape(-1))
    return out.reshape(16, 16)


@kernel
def _correlate(
    out: Any, x: Any, weight: Any, bias: Any, scratch: Any, to: Any, own: Any, size: int, padding: int, backward: bool,
    biased: bool, add: bool,
) -> None:  # fmt: skip
    places = floats(out.ctypes.data), floats(x.ctypes.data), floats(weight.ctypes.data), floats(bias.ctypes.data)
    room = floats(scratch.ctypes.data)
    if size == 3:
        winograd.correlate(square(), nine(), *places, room, to, own, 3, padding, backward, biased, add)
    else:
        winograd.correlate(quarter(), twenty_five(), *places, room, to, own, 5, padding, backward, biased, add)


@kernel
def _weights(
    target: Any, gradient: Any, x: Any, scratch: Any, own: Any, to: Any, size: int, padding: int, scale: float,
    factor: float,
) -> None:  # fmt: skip
    places = floats(target.ctypes.data), floats(gradient.ctypes.data), floats(x.ctypes.data)
    room = floats(scratch.ctypes.data)
    if size == 3:
        winograd.add_weight_gradient(square(), nine(), *places, room, own, to, 3, padding, scale, factor)
    else:
        winograd.add_weight_gradient(quarter(), twenty_five(), *places, room, own, to, 5, padding, scale, factor)


class Convolution:
    """One convolution by Winograd's algorithm, on images given as (batch, channels, height, width).

    Args:
        x: Inputs.
        weight: (outputs, inputs, size, size).
        padding: Rows and columns of zeros.
        margin: Pixels of zeros on both sides of an image.
    """

    def __init__(self, x: NDArray[np.float32], weight: NDArray[np.float32], padding: int, margin: int) -> None:
        batch, inputs, height, width = x.shape
        outputs, _, size, _ = weight.shape
        after = height + 2 * padding + 1 - size, width + 2 * padding + 1 - size
        self.own = field(inputs, height, width, margin, batch)
        self.to = field(outputs, *after, margin, batch)
        self.x, self.weight, self.size, self.padding = laid_out(x, self.own), weight.reshape(-1), size, padding
        room = tiling.room((inputs, height, width), (outputs, *after), batch, size)
        self.scratch = np.full(room + 64, np.nan, np.float32)
        self.scratch[room:] = 7.0  # to see that nothing is written there

    def forward(self, bias: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the outputs."""
        out = laid_out(np.zeros(shape_of(self.to), np.float32), self.to)
        given = self.weight if bias is None else bias
        biased = bias is not None
        _correlate(
            out, self.x, self.weight, given, self.scratch, self.to, self.own, self.size, self.padding, False, biased,
            False,
        )  # fmt: skip
        return taken_out(out, self.to)

    def backward(self, gradient: NDArray[np.float32], before: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the input's gradient, added to what was there before if that is given."""
        below = laid_out(np.full(shape_of(self.own), np.nan, np.float32) if before is None else before, self.own)
        padding = self.size - 1 - self.padding
        _correlate(
            below, laid_out(gradient, self.to), self.weight, self.weight, self.scratch, self.own, self.to, self.size,
            padding, True, False, before is not None,
        )  # fmt: skip
        return taken_out(below, self.own)

    def weights(
        self, gradient: NDArray[np.float32], before: NDArray[np.float32], scale: float, factor: float
    ) -> NDArray[np.float32]:
        """Return scale times what was there before plus factor times the weights' gradient."""
        target = before.reshape(-1).copy()
        _weights(
            target, laid_out(gradient, self.to), self.x, self.scratch, self.to, self.own, self.size, self.padding,
            np.float32(scale), np.float32(factor),
        )  # fmt: skip
        return target.reshape(before.shape)


def shape_of(f: Any) -> tuple[int, int, int, int]:
    """Return (batch, channels, height, width)."""
    return f.batch, f.channels, f.height, f.width


def laid_out(images: NDArray[np.float32], f: Any) -> NDArray[np.float32]:
    """Bring images into the kernels' layout, with numbers behind them that must not be used."""
    rows = np.zeros((f.channels, f.height, f.row), np.float32)
    rows[:, :, f.left : f.left + f.length] = images.transpose(1, 2, 3, 0).reshape(f.channels, f.height, f.length)
    return np.concatenate([rows.reshape(-1), np.full(64, np.nan, np.float32)])


def taken_out(optimizer_state: NDArray[np.float32], f: Any) -> NDArray[np.float32]:
    """Undo :func:`laid_out`; nothing beside the rows may have been written."""
    rows = optimizer_state[:-64].reshape(f.channels, f.height, f.row)
    assert (rows[:, :, : f.left] == 0).all()
    assert (rows[:, :, f.left + f.length :] == 0).all()
    assert np.isnan(optimizer_state[-64:]).all()
    images = rows[:, :, f.left : f.left + f.length].reshape(f.channels, f.height, f.width, f.batch)
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2))
