"""Compilation of a kernel, and whether it can be had at all."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


@functools.cache
def can_compile() -> bool:
    """Tell whether Numba is installed (``pip install 'fedlama[fast]'``)."""
    return importlib.util.find_spec("numba") is not None


def kernel(function: Function) -> Function:
    """Compile a function at its first call; the machine code is kept on disk, and Python's lock is left while it runs.

    Args:
        function: Plain loops over flat arrays.
    """
    import numba

    _forget_outdated(Path(function.__code__.co_filename).parent)
    try:
        compiled: Function = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep the code in can be written: compile anew in every process
        compiled = numba.njit(nogil=True)(function)
    return compiled


@functools.cache
def _forget_outdated(folder: Path) -> None:
    """Delete the machine code that is kept beside a folder's kernels if any of the kernels' sources has changed.

    Numba looks at the file of the function it compiles, not at those of the functions that end up inside it: code made
    before an update would go on with old kernels and new sizes.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    kept = folder / "__pycache__"
    note = kept / "kernels.sha256"
    try:
        if note.read_text() == digest.hexdigest():
            return
    except OSError:
        pass  # nothing was written down yet
    try:
        kept.mkdir(exist_ok=True)
        for index in kept.glob("*.nbi"):
            index.unlink(missing_ok=True)
        note.write_text(digest.hexdigest())
    except OSError:
        pass  # nothing is kept beside the sources where nothing can be written


@functools.cache
def operation(function: Callable[..., None]) -> Any:
    """Compile an operation, if it is not on disk; the result's `address` is that of its machine code.

    Operations are compiled one by one, when a model first needs them: Numba optimises a kernel together with all that
    it calls, so one kernel that calls them all would take most of a minute.

    Args:
        function: Takes a row of the program, two numbers, the context and the settings of a step; see
            :mod:`~fedlama.kernels.table`.
    """
    import numba
    from numba import types

    whole, real = types.CPointer(types.int64), types.CPointer(types.float32)
    signature = types.void(whole, real, whole, real)
    try:
        return numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # as in `kernel`
        return numba.cfunc(signature)(function)
