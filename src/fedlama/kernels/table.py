"""How a model and its parameters are written down for the compiled kernels: tables of whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Numbers in a vector."""
DENSE, LONG_DENSE, CONVOLUTION, POOL, MEAN_POOL, RELU, FLATTEN, NORM, ADD, MEAN, DROPOUT = range(11)
WINOGRAD_3, WINOGRAD_5 = 11, 12
"""Kinds of operations; the last two are convolutions with filters of 3x3 and 5x5."""
CONVOLUTIONS = CONVOLUTION, WINOGRAD_3, WINOGRAD_5
WEIGHT, BIAS, AVERAGE, VARIANCE, IN, OTHER, OUT, ABOVE, BELOW, BESIDE = range(10)
"""Columns of a program: the numbers of weight, bias and running statistics, -1 for none; where in the scratch
the input, the other input, the output, its gradient, and the gradients of input and other input begin."""
ADDS, ADDS_BESIDE, ACTIVE, WANTED, WANTED_BESIDE, EXTRA, IMAGES, DO, UNDO, FIRST_SIZE = range(10, 20)
"""More of them: whether the gradients of the inputs are added to what is there; whether the operation has a backward
pass at all, and whether it gives the inputs' gradients; where scratch of its own begins; whether the activations are
images; the addresses of the machine code that does and undoes it; then the sizes."""
COLUMNS = FIRST_SIZE + 14
LONG = 1 << 16
"""Elements of a dense layer's weights from which on the memory counts more than the arithmetic."""
VALUES, VELOCITIES, ANCHOR, ELEMENTS, TRAINED, PARAMETER_COLUMNS = range(6)
"""Columns of a table of parameters and buffers: the addresses of the first client's values and velocities and of the
anchor, 0 for none; the elements of one client; and whether it is trained: 0 not at all, 1 by a step for all
parameters at last, 2 by a kernel of its own."""
SCRATCH, SPARE, MASKS, PARAMETERS, DECAYS, COUNT, CLIENT, BATCH, MARGIN, FRESH, CONTEXT = range(11)
"""What an operation is told about the step, whole numbers: the addresses of activations and gradients, of scratch for a
while, of this step's dropout masks, of the table of parameters and of their weight decays (float32); how many
parameters there are; the client's row in the share; its batch; the pixels of zeros beside images; and whether the
velocities are zero, whatever lies in their memory."""
RATE, MOMENTUM, PULL = range(3)
"""And what is not whole, float32: learning rate, momentum, and FedProx's mu."""


def row_elements(width: int, margin: int, batch: int) -> tuple[int, int]:
    """Return the elements before a row's first pixel, and from one row of an image to the next; both fill vectors.

    Args:
        width: Pixels.
        margin: Pixels of zeros on both sides, at least.
        batch: Samples.
    """
    left = -(-margin * batch // LANES) * LANES
    return left, left + -(-(width + margin) * batch // LANES) * LANES


class Scratch:
    """Memory that is used again and again, as long as its size stays.

    Attributes:
        room: float32; its first element lies at a multiple of 64 bytes.
        state: int64, (1,): the batch that the zeros in there were laid out for, 0 at first.
    """

    def __init__(self) -> None:
        self.room = np.empty(0, np.float32)
        self.state: NDArray[np.int64] = np.zeros(1, np.int64)

    def resize(self, elements: int) -> None:
        """Have so many elements."""
        if len(self.room) != elements:
            room = np.empty(elements + LANES, np.float32)
            self.room = room[-room.ctypes.data // 4 % LANES :][:elements]
            self.state[0] = 0
