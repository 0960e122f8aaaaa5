"""What kernels are given together: an affine map, the target of a gradient, a matrix, images."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import row_elements


class Affine(NamedTuple):
    """A layer's weight and bias.

    Attributes:
        weight: Memory.
        bias: Memory; not accessed unless `biased`.
        biased: Whether there is a bias.
    """

    weight: Any
    bias: Any
    biased: bool


class Target(NamedTuple):
    """What a gradient is added to: memory[i] becomes scale * memory[i] + factor * gradient[i].

    Attributes:
        memory: A client's values or velocities of a parameter.
        scale: What is there is multiplied with it.
        factor: The gradient is multiplied with it.
    """

    memory: Any
    scale: Any
    factor: Any


class Matrix(NamedTuple):
    """A matrix, or its transpose: element [r, c] is memory[r * down + c * right].

    Attributes:
        memory: Where its elements are.
        rows: How many.
        columns: How many.
        down: Elements from a row to the next.
        right: Elements from a column to the next.
    """

    memory: Any
    rows: int
    columns: int
    down: int
    right: int


class Field(NamedTuple):
    """The layout of images, (channels, height, row): a row is zeros, then (width, batch), then zeros; see README.md.

    Attributes:
        channels: Planes.
        height: Rows of pixels.
        width: Pixels in a row.
        batch: Samples.
        length: Numbers in a row, width * batch.
        left: Elements from the start of a row to its first pixel.
        row: Elements from one row to the next.
        plane: Elements from one channel to the next.
    """

    channels: int
    height: int
    width: int
    batch: int
    length: int
    left: int
    row: int
    plane: int


class Images(NamedTuple):
    """Images, or gradients of them.

    Attributes:
        pixels: Memory, (channels, height, row).
        field: Their layout.
    """

    pixels: Any
    field: Any


_row_elements = kernel(row_elements)


@kernel
def field(channels: int, height: int, width: int, margin: int, batch: int) -> Any:
    """Lay out images with `margin` pixels of zeros or more beside each row.

    Args:
        channels: Planes.
        height: Rows of pixels.
        width: Pixels in a row.
        margin: Pixels of zeros.
        batch: Samples.
    """
    left, row = _row_elements(width, margin, batch)
    return Field(channels, height, width, batch, width * batch, left, row, height * row)
