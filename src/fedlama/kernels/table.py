"""How a model and its parameters are written down for the kernels: tables of whole numbers, and their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Float32 numbers in a vector."""

# Kinds of operations. WINOGRAD_3 and WINOGRAD_5 are convolutions with filters of that side by Winograd's algorithm.
DENSE, LONG_DENSE, CONVOLUTION, POOL, MEAN_POOL, RELU, FLATTEN, NORM, ADD, MEAN, DROPOUT = range(11)
WINOGRAD_3, WINOGRAD_5, GROUP_NORM = 11, 12, 13
SEQUENCE_DENSE, LAYER_NORM, GELU, EMBEDDING, ADD_POSITIONS, ATTENTION = range(14, 20)
CONVOLUTIONS = CONVOLUTION, WINOGRAD_3, WINOGRAD_5
NORMS = NORM, GROUP_NORM

# The columns of a program, int64, (operations, COLUMNS). First the positions in the table of parameters of weight,
# bias and running statistics, -1 for none.
WEIGHT, BIAS, AVERAGE, VARIANCE = range(4)
# Then the element of the scratch at which the region begins of: the input, the other input (of a sum), the output, the
# output's gradient, the gradients of the input and of the other input, and the operation's own data (a dropout mask,
# the statistics of a normalisation). `column + TO_END` holds the element after the region's last.
IN, OTHER, OUT, ABOVE, BELOW, BELOW_OTHER, EXTRA = range(4, 11)
TO_END = 7
# Then flags: whether the gradient of the input (of the other input) is added to what is in its region; whether there is
# a backward pass at all, and whether it makes the gradient of the input (of the other input); whether the activations
# are images; whether the input is the data, features that fill whole vectors. Then the addresses of the forward and
# backward machine code. Then the operation's sizes.
ADDS, ADDS_OTHER, ACTIVE, WANTED, WANTED_OTHER, IMAGES, SAMPLES, FORWARD, BACKWARD, FIRST_SIZE = range(18, 28)
COLUMNS = FIRST_SIZE + 14

NARROW = 16
"""Features that a dense layer at positions has at least, on both sides: no tile is taller."""
SEEN = 3
"""Positions of a tile of attention; a sequence has as many at least."""
TOGETHER = 4
"""Positions whose inputs a dense layer transposes at a time for its weights' gradient."""
TOKENS = 1 << 24
"""Tokens are kept as float32 numbers between gathering and their embedding, which are exact below this."""

LONG = 1 << 16
"""Elements of a dense layer's weights from which on fetching them takes longer than multiplying with them."""

# The columns of a table of parameters and running statistics, int64, (tensors, PARAMETER_COLUMNS): the addresses of the
# first client's values and velocities and of the reference, 0 for none; the elements of one client; and whether the
# tensor is trained: 0 not at all, 1 by the update after the backward pass, 2 within the backward pass of its operation.
VALUES, VELOCITIES, REFERENCE, ELEMENTS, TRAINED, PARAMETER_COLUMNS = range(6)

# What operations need to know of the step, int64, (CONTEXT,). First addresses, each with the elements there: scratch of
# activations and gradients, scratch that an operation may use while it runs, this step's dropout masks, the batch as
# gathered, (batch, features). Then the addresses of the table of parameters and of their weight decays (float32), and
# how many parameters there are. Then the client's row in the stacks, its batch, the pixels of zeros beside images, and
# whether velocities count as zero. Last, in checked mode, whether an operation has failed.
SCRATCH, SCRATCH_ELEMENTS, SPARE, SPARE_ELEMENTS, MASKS, MASK_ELEMENTS, INPUTS, INPUT_ELEMENTS = range(8)
PARAMETERS, DECAYS, COUNT, CLIENT, BATCH, MARGIN, FRESH, FAILED, CONTEXT = range(8, 17)

# The settings of the step, float32, (3,): learning rate, momentum, and FedProx's mu.
RATE, MOMENTUM, PROXIMAL = range(3)


def row_elements(width: int, margin: int, batch: int) -> tuple[int, int]:
    """Return the elements before a row's first pixel, and from one row of an image to the next; both fill vectors.

    Args:
        width: Pixels.
        margin: Pixels of zeros on both sides, at least.
        batch: Samples.
    """
    left = -(-margin * batch // LANES) * LANES
    return left, left + -(-(width + margin) * batch // LANES) * LANES


def attention_span(positions: int) -> int:
    """Return the elements of a row of attention weights: two zeros after the last one, and an odd number in all.

    With an odd number the weights of one position in all rows are in different sets of the cache.

    Args:
        positions: Of a sequence.
    """
    return (positions + 2) | 1


Size: TypeAlias = tuple[int, ...]
"""(channels, height, width) of images, (positions, features) of sequences, or (features,)."""


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
        constants: Two numbers that are not whole: a dropout's rate, or a normalisation's momentum and epsilon.
    """

    kind: int
    inputs: tuple[int, ...]
    output: int
    names: tuple[str | None, ...] = ()
    count: str | None = None
    sizes: tuple[int, ...] = ()
    constants: tuple[float, float] = (0.0, 0.0)


class Scratch:
    """Memory of one thread that is used again and again, as long as its size stays.

    Attributes:
        room: float32; its first element is at a multiple of 64 bytes.
        state: int64, (1,): the batch for which the zeros beside images were written, 0 at first.
    """

    def __init__(self) -> None:
        self.room = np.empty(0, np.float32)
        self.state: NDArray[np.int64] = np.zeros(1, np.int64)

    def resize(self, elements: int) -> None:
        """Make `room` an array of this many elements."""
        if len(self.room) != elements:
            room = np.empty(elements + LANES, np.float32)
            self.room = room[-room.ctypes.data // 4 % LANES :][:elements]
            self.state[0] = 0
