"""One thread's room for activations and gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlama.engines.compiled.table import LANES


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
