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
from fedlama.kernels.convolution import Window, add_weight_gradient, backward_input, forward
from fedlama.kernels.images import enter, field
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import add_scaled, floats, load, quarter, square, store, tall
from fedlama.kernels.tiling import pays, room
from fedlama.kernels.transforms import nine, twenty_five

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
def _peak(repetitions: int, weights: int, x: int, out: int) -> None:
    total = tall()
    for _ in range(repetitions):
        for column in range(256):
            total = add_scaled(total, floats(weights), column, 256, load(floats(x), column * 16))
    store(floats(out), 0, 16, total)


@kernel
def _enter(out: int, x: int, f: Any) -> None:
    enter(floats(out), floats(x), f)


@kernel
def _forward(out: int, x: int, weight: int, to: Any, own: Any, w: Any) -> None:
    forward(floats(out), floats(x), floats(weight), floats(weight), False, to, own, w)


@kernel
def _backward(below: int, gradient: int, weight: int, to: Any, own: Any, w: Any) -> None:
    backward_input(floats(below), floats(gradient), floats(weight), False, to, own, w)


@kernel
def _weights(target: int, gradient: int, x: int, room: int, own: Any, to: Any, w: Any) -> None:
    zero, one = np.float32(0.0), np.float32(1.0)
    add_weight_gradient(floats(target), floats(gradient), floats(x), floats(room), own, to, w, zero, one)


@kernel
def _winograd(
    out: int, x: int, weight: int, scratch: int, to: Any, own: Any, size: int, padding: int, backward: bool
) -> None:  # fmt: skip
    given = floats(out), floats(x), floats(weight), floats(weight), floats(scratch), to, own
    if size == 3:
        winograd.correlate(square(), nine(), *given, 3, padding, backward, False, False)
    else:
        winograd.correlate(quarter(), twenty_five(), *given, 5, padding, backward, False, False)


@kernel
def _winograd_weights(
    target: int, gradient: int, x: int, scratch: int, own: Any, to: Any, size: int, padding: int
) -> None:  # fmt: skip
    zero, one = np.float32(0.0), np.float32(1.0)
    given = floats(target), floats(gradient), floats(x), floats(scratch), own, to
    if size == 3:
        winograd.add_weight_gradient(square(), nine(), *given, 3, padding, zero, one)
    else:
        winograd.add_weight_gradient(quarter(), twenty_five(), *given, 5, padding, zero, one)


def main() -> None:
    """Measure and print a table."""
    some = [_aligned(8192) for _ in range(3)]
    repetitions = 2000
    taken = _best(lambda: _peak(repetitions, *(one.ctypes.data for one in some)))
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
    own, to = field(inputs, side, side, margin, batch), field(outputs, after, after, margin, batch)
    w = Window(size, size, stride, stride, padding, padding, 1, 1)
    weight, target = (_aligned(outputs * inputs * size**2) for _ in range(2))
    spare = _aligned((after * after * batch + 16) * (-(-outputs // 16) * 16) + 128 * (size**2 + 16) + 256)
    arrays = [*(_images(f) for f in (own, to, own, to)), weight, target, spare]  # they must outlive the jobs
    x, gradient, below, out, filters, sums, scratch = (one.ctypes.data for one in arrays)
    ways: dict[str, list[Callable[[], object]]] = {
        "": [
            lambda: _forward(out, x, filters, to, own, w),
            lambda: _backward(below, gradient, filters, own, to, w),
            lambda: _weights(sums, gradient, x, scratch, to, own, w),
        ]
    }
    given = (inputs, side, side), (outputs, after, after), batch, size
    if stride == 1 and pays(*given, padding):
        arrays.append(_aligned(room(*given)))
        tiles = arrays[-1].ctypes.data
        ways[" (Winograd)"] = [
            lambda: _winograd(out, x, filters, tiles, to, own, size, padding, False),
            lambda: _winograd(below, gradient, filters, tiles, own, to, size, size - 1 - padding, True),
            lambda: _winograd_weights(sums, gradient, x, tiles, to, own, size, padding),
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
    _enter(images.ctypes.data, x.ctypes.data, f)
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
