"""How fast the compiled convolutions are, and the core they run on: ``python -m benchmarks.kernels``.

One thread, one client. Useful products count alone (none with the zeros around an image), and Winograd's kernels are
credited with those that they save; the first line is a loop of nothing but multiplications and additions on registers
and the nearest cache, the most that this core can do.
"""

# ruff: noqa: ANN401 - what Numba compiles has no types in Python's sense

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fedlama.kernels import winograd
from fedlama.kernels.convolution import (
    Window,
    add_weight_gradient,
    backward_strided,
    backward_taps,
    correlate,
    forward_taps,
)
from fedlama.kernels.images import enter
from fedlama.kernels.kernel import kernel
from fedlama.kernels.operands import Affine, Images, Target, field
from fedlama.kernels.tiles import ROWS, add_scaled, floats, load, runtime, store, tile
from fedlama.kernels.tiling import pays, room

Shape = tuple[int, int, int, int, int, int, int]
SHAPES: list[Shape] = [  # batch, inputs, outputs, side, kernel, stride, padding
    (16, 1, 16, 8, 5, 1, 2),
    (16, 16, 32, 4, 5, 1, 2),
    (20, 1, 32, 28, 5, 1, 2),
    (20, 32, 64, 14, 5, 1, 2),
    (32, 16, 16, 32, 3, 1, 1),
    (32, 32, 32, 16, 3, 1, 1),
    (32, 64, 64, 8, 3, 1, 1),
    (32, 16, 32, 32, 3, 2, 1),
    (10, 32, 64, 30, 3, 1, 0),
]


@kernel
def _peak(repetitions: int, weights: Any, x: Any, out: Any) -> None:
    total = tile(ROWS, 1)
    for _ in range(repetitions):
        for column in range(256):
            total = add_scaled(total, floats(weights), column, 256, load(floats(x), column * 16))
    store(floats(out), 0, 16, total)


@kernel
def _enter(out: Any, x: Any, f: Any) -> None:
    enter(floats(out), floats(x), f)


@kernel
def _forward(out: Any, x: Any, weight: Any, fields: Any, w: Any) -> None:
    to, grid = Images(floats(out), fields[1]), Images(floats(x), fields[0])
    affine = Affine(floats(weight), floats(weight), runtime(False))
    correlate(to, grid, affine, runtime(False), forward_taps(w, grid.field))


@kernel
def _backward(below: Any, gradient: Any, weight: Any, fields: Any, w: Any) -> None:
    to, grid, weights = Images(floats(below), fields[0]), Images(floats(gradient), fields[1]), floats(weight)
    if w.stride_y == 1:
        correlate(to, grid, Affine(weights, weights, runtime(False)), runtime(False), backward_taps(w, to.field))
    else:
        backward_strided(to, grid, weights, runtime(False), w)


@kernel
def _weights(target: Any, gradient: Any, x: Any, scratch: Any, fields: Any, w: Any) -> None:
    goal = Target(floats(target), np.float64(0.0), np.float32(1.0))
    above, grid = Images(floats(gradient), fields[1]), Images(floats(x), fields[0])
    add_weight_gradient(goal, above, grid, floats(scratch), w)


def _winograd_kernels(size: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return both of Winograd's kernels for filters of this side."""
    results, taps = (7 - size) ** 2, size**2

    @kernel
    def correlation(out: Any, x: Any, weight: Any, scratch: Any, fields: Any, padding: int, backward: bool) -> None:
        to, grid = Images(floats(out), fields[1]), Images(floats(x), fields[0])
        affine = Affine(floats(weight), floats(weight), runtime(False))
        way = winograd.Way(size, padding, backward, runtime(False))
        winograd.correlate(winograd.Forms(tile(results, 1), tile(taps, 1)), to, grid, affine, floats(scratch), way)

    @kernel
    def weights(target: Any, gradient: Any, x: Any, scratch: Any, fields: Any, padding: int) -> None:
        goal = Target(floats(target), np.float64(0.0), np.float32(1.0))
        above, grid = Images(floats(gradient), fields[1]), Images(floats(x), fields[0])
        forms = winograd.Forms(tile(results, 1), tile(taps, 1))
        winograd.add_weight_gradient(forms, goal, above, grid, floats(scratch), size, padding)

    return correlation, weights


def main() -> None:
    """Measure and print a table."""
    arrays = [_aligned(8192) for _ in range(3)]
    repetitions = 2000
    taken = _best(lambda: _peak(repetitions, *arrays))
    print(f"the core: {repetitions * 256 * 8 * 16 * 2 / taken / 1e9:.0f} Gflop/s")
    torch.set_num_threads(1)
    square = torch.ones(2048, 2048)
    taken = _best(lambda: torch.mm(square, square), 5)
    print(f"PyTorch's matrix product, 2048 x 2048: {2 * 2048**3 / taken / 1e9:.0f} Gflop/s")
    print("| batch, inputs, outputs, side, kernel, stride, padding | forward | input's gradient | weights' gradient |")
    print("|---|---|---|---|")
    for shape in SHAPES:
        for name, cells in _measured(*shape).items():
            print(f"| {', '.join(map(str, shape))}{name} | " + " | ".join(cells) + " |")


def _measured(
    batch: int, inputs: int, outputs: int, side: int, size: int, stride: int, padding: int
) -> dict[str, list[str]]:
    """Return microseconds and Gflop/s of the three kernels, direct ones and Winograd's where the engine takes these."""
    after = (side + 2 * padding - size) // stride + 1
    margin = max(padding, size - 1 - padding)
    fields = field(inputs, side, side, margin, batch), field(outputs, after, after, margin, batch)
    w = Window(size, size, stride, stride, padding, padding, 1, 1)
    filters, sums = (_aligned(outputs * inputs * size**2) for _ in range(2))
    scratch = _aligned((after * after * batch + 16) * (-(-outputs // 16) * 16) + 128 * (size**2 + 16) + 256)
    x, gradient, below, out = (_images(f) for f in (*fields, *fields))
    ways: dict[str, list[Callable[[], object]]] = {
        "": [
            lambda: _forward(out, x, filters, fields, w),
            lambda: _backward(below, gradient, filters, fields, w),
            lambda: _weights(sums, gradient, x, scratch, fields, w),
        ]
    }
    given = (inputs, side, side), (outputs, after, after), batch, size
    if stride == 1 and pays(*given, padding):
        tiles, reverse = _aligned(room(*given)), fields[::-1]
        correlation, weights = _winograd_kernels(size)
        ways[" (Winograd)"] = [
            lambda: correlation(out, x, filters, tiles, fields, padding, False),
            lambda: correlation(below, gradient, filters, tiles, reverse, size - 1 - padding, True),
            lambda: weights(sums, gradient, x, tiles, fields, padding),
        ]
    ones = torch.ones(1, 1, side, side), torch.ones(1, 1, size, size)
    useful = 2 * batch * inputs * outputs * float(functional.conv2d(*ones, stride=stride, padding=padding).sum())
    return {
        name: [f"{taken * 1e6:.0f} us, {useful / taken / 1e9:.0f} Gflop/s" for taken in map(_best, jobs)]
        for name, jobs in ways.items()
    }


def _images(f: Any) -> NDArray[np.float32]:
    """Return random images in the kernels' layout."""
    images = _aligned(f.channels * f.plane)
    x = np.random.default_rng(0).standard_normal(f.channels * f.height * f.length, np.float32)
    _enter(images, x, f)
    return images


def _aligned(elements: int) -> NDArray[np.float32]:
    """Return zeros that begin at a multiple of 64 bytes, with room behind them for whole vectors."""
    room = np.zeros(elements + 128, np.float32)
    return room[-room.ctypes.data // 4 % 16 :]


def _best(job: Callable[[], object], repetitions: int = 30) -> float:
    """Return the shortest of several times, after a first one that compiles."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times[1:])


if __name__ == "__main__":
    main()
