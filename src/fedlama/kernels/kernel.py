"""How kernels are compiled, and where their machine code is kept; see :mod:`~fedlama.kernels.modes` for the modes."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fedlama.kernels.modes import CHECKED, MODES

Function = TypeVar("Function", bound=Callable[..., object])


@functools.cache
def can_compile() -> bool:
    """Return whether kernels can be used: Numba is installed (``pip install 'fedlama[fast]'``) and not switched off."""
    return "off" not in MODES and importlib.util.find_spec("numba") is not None


def kernel(function: Function) -> Function:
    """Compile a function at its first call; machine code is kept on disk, and Python's lock is released while it runs.

    Args:
        function: Loops over memory.
    """
    import numba

    named = _named_after_sources(function)
    try:
        compiled: Function = numba.njit(nogil=True, cache=True)(named)
    except RuntimeError:  # Numba finds no folder that it can write to: every process compiles for itself
        compiled = numba.njit(nogil=True)(named)
    return compiled


@functools.cache
def operation(function: Callable[..., None]) -> Any:
    """Compile an operation, if its machine code is not on disk; the result's `address` is that of the code.

    Operations are compiled one by one, when a model first needs them: Numba optimises a kernel together with all that
    it calls, so one kernel that calls every operation would take most of a minute.

    Args:
        function: Takes a row of the program, the row's constants, the context and the settings of a step; see
            :mod:`~fedlama.kernels.table`.
    """
    import numba

    from fedlama.kernels.memory import FLOATS, INTEGERS

    signature = numba.types.void(INTEGERS, FLOATS, INTEGERS, FLOATS)
    if CHECKED:
        return numba.cfunc(signature)(_reporting(kernel(function)))
    named = _named_after_sources(function)
    try:
        return numba.cfunc(signature, cache=True)(named)
    except RuntimeError:  # as in `kernel`
        return numba.cfunc(signature)(named)


def _reporting(body: Callable[..., None]) -> Callable[..., None]:
    """Note a failure in the context instead of raising it: an exception cannot cross a call by address."""
    from fedlama.kernels.table import FAILED

    def guarded(row: Any, constants: Any, context: Any, settings: Any) -> None:
        try:
            body(row, constants, context, settings)
        except Exception:
            context[FAILED] = 1

    return guarded


def _named_after_sources(function: Function) -> Function:
    """Return a copy of a function whose name ends in a digest of all kernels' sources, and in the mode.

    Numba's files on disk are named after the function and marked with the date of its own source, not with those of
    the functions that are inlined into it (https://github.com/numba/numba/issues/1833), so that machine code from
    before an edit would go on with old kernels. With the digest in the name it is not found again. This can go when
    Numba follows the functions that a cached one calls.
    """
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__module__ = function.__module__
    copy.__qualname__ = f"{function.__qualname__}_{_digest()}{'_checked' if CHECKED else ''}"
    return copy  # type: ignore[return-value]


@functools.cache
def _digest() -> str:
    """Return a digest of all kernels' sources, and remove machine code of other sources beside them."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(folder.glob("*.py")))).hexdigest()[:12]
    remove_outdated(folder / "__pycache__", digest)
    return digest


def remove_outdated(folder: Path, digest: str) -> None:
    """Remove Numba's files of other sources: nothing reads them again, and every edit would leave megabytes.

    Args:
        folder: Where Python keeps what it compiles of this package. Other folders, as one that the user has chosen by
            ``NUMBA_CACHE_DIR``, may serve several versions and are left alone.
        digest: Of the present sources.
    """
    for file in folder.glob("*.nb[ci]"):
        if digest not in file.name:
            try:
                file.unlink(missing_ok=True)
            except OSError:
                return  # an installation that only others may write to
