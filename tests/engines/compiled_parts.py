"""Single instructions of compiled kernels, to be called from tests; importing this asks for Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import exponential, floats, load, store, turn


@kernel
def _exponentials(out: Any, x: Any) -> None:  # noqa: ANN401
    for place in range(0, len(x), 16):
        store(floats(out.ctypes.data), place, 16, exponential(load(floats(x.ctypes.data), place)))


def exponentials(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return e to the power of each number; a multiple of sixteen of them."""
    out = np.empty_like(x)
    _exponentials(out, x)
    return out


@kernel
def _transposed(out: Any, x: Any) -> None:  # noqa: ANN401
    turn(floats(out.ctypes.data), 0, 16, floats(x.ctypes.data), 0, 16)


def transposed(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the transpose of 16 x 16 numbers."""
    out = np.empty(256, np.float32)
    _transposed(out, square.reshape(-1))
    return out.reshape(16, 16)
