"""Read the pickles of the CIFAR archives without the powers of pickle.

A pickle is a program. This reader admits only the instructions that build dictionaries, lists, strings, integers
and NumPy byte arrays, and puts harmless stand-ins in the place of NumPy's own constructors, so that nothing in the
file chooses what runs, nor how much memory is set aside.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools

import numpy as np
from numpy.typing import NDArray

from fedlama.errors import DataError

_FRAMING = "PROTO FRAME STOP MARK POP PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE"
_VALUES = "NONE NEWTRUE NEWFALSE INT LONG BININT BININT1 BININT2 LONG1"
_STRINGS = "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES"
_CONTAINERS = "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS"
_OBJECTS = "GLOBAL STACK_GLOBAL REDUCE BUILD"
_ALLOWED = frozenset(f"{_FRAMING} {_VALUES} {_STRINGS} {_CONTAINERS} {_OBJECTS}".split())
_MEMO = frozenset({"PUT", "LONG_BINPUT"})


class _Type:
    """Stands for numpy.dtype: remembers the name, ignores the rest."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for numpy.ndarray: keeps shape, type and bytes to be checked afterwards."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Function:
    """Base of the stand-ins for functions: without attributes, so that BUILD cannot change them."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it tries to change a function")


class _Reconstruct(_Function):
    """Stands for NumPy's maker of empty arrays."""

    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array()


class _Encode(_Function):
    """Stands for codecs.encode, with which Python 3 writes bytes at protocol 2."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("only latin1 text is expected")
        return text.encode("latin1")


_GLOBALS: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("_codecs", "encode"): _Encode(),
}


class _Reader(pickle.Unpickler):
    """Resolves names from a fixed table and nowhere else."""

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in for a name, or refuse it."""
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs") from None


def loads(content: bytes, source: str) -> dict[str, object]:
    """Read one pickled dictionary of byte arrays, lists and strings.

    Args:
        content: The bytes of the file.
        source: What to call it in messages.

    Returns:
        The dictionary with its keys as text; uint8 arrays as NumPy arrays, everything else as it came.

    Raises:
        DataError: If the pickle is damaged, asks for anything else, or is no dictionary.
    """
    try:
        _inspect(content)
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
    # Damaged pickles end in almost any exception; none of them is worth a traceback.
    except Exception as error:
        raise DataError(f"{source} is not a CIFAR batch that is safe to read: {error}; download it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{source} holds a {type(found).__name__}, expected a dictionary; it is another file")
    return {_text(key): _plain(value, f"{source}, entry {_text(key)}") for key, value in found.items()}


def _inspect(content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it uses the instruction {opcode.name}, which no CIFAR file needs")
        # The C reader sets aside memory for the largest memo number, so a short file must not name a large one.
        if opcode.name in _MEMO and isinstance(argument, int) and argument > len(content):
            raise pickle.UnpicklingError(
                f"it numbers an entry {argument}, more than a file of {len(content)} bytes can"
            )


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: object, source: str) -> object:
    return _to_numpy(value, source) if isinstance(value, _Array) else value


def _to_numpy(array: _Array, source: str) -> NDArray[np.uint8]:
    match array.state:
        case (_, tuple(shape), _Type(name=name), fortran, bytes(body)):
            kind = _text(name)
            sizes = [size for size in shape if isinstance(size, int) and size >= 0]
            if kind in ("u1", "|u1", "uint8") and len(sizes) == len(shape) and math.prod(sizes) == len(body):
                return np.frombuffer(body, np.uint8).reshape(sizes, order="F" if fortran else "C")
            raise DataError(
                f"{source}: array of type {kind}, shape {shape} and {len(body)} bytes, expected uint8 to match"
            )
        case _:
            raise DataError(f"{source}: an array without type, shape and bytes; download the file again")
