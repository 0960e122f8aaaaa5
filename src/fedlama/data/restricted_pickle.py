"""Read the pickles of the CIFAR archives without Python's unpickler.

A pickle is a program. The small interpreter below knows only the instructions that build dictionaries, lists, strings,
integers and NumPy byte arrays; Python's own unpickler never runs. So a file cannot choose what is called, how much
memory is reserved, or how deeply values are nested.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlama.errors import DataError, cut, shown

T = TypeVar("T")
_LIMIT = 2_000_000
"""Largest number of instructions that are executed; CIFAR-100's training file has about 400,000."""

_NOTHING = frozenset({"PROTO", "FRAME"})
_NUMBERS = frozenset({"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1"})
_TEXTS = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"})
_PUSH = _NUMBERS | _TEXTS
_PUSH_BYTES = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GLOBALS = {
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "_codecs encode": "encode",  # how Python 3 writes bytes at protocol 2
}


@dataclass(frozen=True)
class _Global:
    """Represents a name that a file may refer to; it is compared, never called."""

    name: str


@dataclass(frozen=True)
class _Type:
    """Represents a numpy.dtype."""

    name: object


@dataclass
class _Array:
    """Represents a numpy.ndarray: keeps shape, dtype and bytes, which are checked afterwards."""

    state: object = None


def loads(content: bytes, source: str) -> dict[str, object]:
    """Read one pickled dictionary of byte arrays, lists and strings.

    Args:
        content: The bytes of the file.
        source: Name of the file for messages.

    Returns:
        The dictionary with its keys as text; uint8 arrays as NumPy arrays, everything else unchanged.

    Raises:
        DataError: If the pickle is damaged, contains anything else, or is not a dictionary.
    """
    try:
        content_value = _Interpreter().run(content)
    # Damaged pickles raise almost any exception; all of them mean the same to the user.
    except Exception as error:
        raise DataError(
            f"{source} is not a CIFAR batch that is safe to read: {cut(error)}; download it again"
        ) from error
    if not isinstance(content_value, dict):
        raise DataError(f"{source} holds a {type(content_value).__name__}, expected a dictionary; it is another file")
    return {key: _plain(value, f"{source}, entry {shown(key)}") for key, value in content_value.items()}


class _Interpreter:
    """A stack, the positions of its marks, and a memo."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[object, object] = {}

    def run(self, content: bytes) -> object:
        """Execute a program and return what it builds."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= _LIMIT:
                raise ValueError(f"it has more than {_LIMIT} instructions")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: object) -> None:
        if name in _NOTHING:
            return
        if name in _PUSH:
            self._stack.append(argument)
        elif name in _PUSH_BYTES:
            self._stack.append(str(argument).encode("latin1"))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _PUT:
            if not isinstance(argument, int) or argument > _LIMIT:
                raise ValueError(f"it numbers an entry {shown(argument)}, more than any file has")
            self._memo[argument] = self._stack[-1]
        elif name in _GET:
            self._stack.append(self._memo[argument])
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: object) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._marks.append(len(stack))
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                stack.append(_filled({}, self._since_mark()))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(_TUPLES[name])))
            case "APPEND" | "APPENDS":
                items = self._last(1) if name == "APPEND" else self._since_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if name == "SETITEM" else self._since_mark()
                _filled(_expect(stack[-1], dict), items)
            case "GLOBAL":
                stack.append(_global(argument))
            case "STACK_GLOBAL":
                stack.append(_global(" ".join(_expect(part, str) for part in self._last(2))))
            case "REDUCE":
                stack.append(_called(*self._last(2)))
            case "BUILD":
                (state,) = self._last(1)
                if isinstance(stack[-1], _Array):
                    stack[-1].state = state
                else:
                    _expect(stack[-1], _Type)
            case _:
                raise ValueError(f"it uses the instruction {name}, which no CIFAR file needs")

    def _last(self, count: int) -> list[object]:
        if len(self._stack) < count:
            raise ValueError("an instruction lacks its operands")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[object]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


def _expect(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"it holds a {type(value).__name__} where a {kind.__name__} is expected")
    return value


def _filled(table: dict[str, object], items: list[object]) -> dict[str, object]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        table[key.decode("latin1") if isinstance(key, bytes) else _expect(key, str)] = value
    return table


def _global(name: object) -> _Global:
    if name not in _GLOBALS:
        raise ValueError(f"it refers to {shown(str(name).replace(' ', '.'))}, which no CIFAR file needs")
    return _Global(_GLOBALS[str(name)])


def _called(function: object, arguments: object) -> object:
    match function, arguments:
        case _Global("dtype"), (name, *_):
            return _Type(name)
        case _Global("reconstruct"), tuple():
            return _Array()
        case _Global("encode"), (str(text), "latin1"):
            return text.encode("latin1")
        case _:
            raise ValueError("it calls something that no CIFAR file needs")


def _plain(value: object, source: str) -> object:
    return _to_numpy(value, source) if isinstance(value, _Array) else value


def _to_numpy(array: _Array, source: str) -> NDArray[np.uint8]:
    match array.state:
        case (_, tuple(shape), _Type(name=name), fortran, bytes(body)):
            kind = name.decode("latin1") if isinstance(name, bytes) else name
            sizes = [size for size in shape if isinstance(size, int) and size >= 0]
            if kind in ("u1", "|u1", "uint8") and len(sizes) == len(shape) <= 4 and math.prod(sizes) == len(body):
                return np.frombuffer(body, np.uint8).reshape(sizes, order="F" if fortran else "C")
            raise DataError(f"{source}: its type, shape and {len(body)} bytes do not make an array of uint8")
        case _:
            raise DataError(f"{source}: an array without type, shape and bytes; download the file again")
