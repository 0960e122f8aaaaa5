"""Compilation of a kernel, and whether it can be had at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def can_compile() -> bool:
    """Tell whether Numba is installed (``pip install 'fedlama[fast]'``)."""
    return importlib.util.find_spec("numba") is not None


def kernel(function: Function) -> Function:
    """Compile a function at its first call; the machine code is kept on disk, and Python's lock is left while it runs.

    Args:
        function: Plain loops over flat arrays.
    """
    import numba

    try:
        compiled: Function = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep the code in can be written: compile anew in every process
        compiled = numba.njit(nogil=True)(function)
    return compiled
