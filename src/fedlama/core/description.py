"""Describe any setting by value, as plain JSON types: equal settings have equal descriptions, different ones do not.

Descriptions are written into ``config.json`` and into checkpoints and are compared when a run is resumed or verified,
so nothing may be left out silently. The rules, in this order:

=================================  ================================================================================
value                              description
=================================  ================================================================================
None, bool, int, str               itself; so is a finite float, while NaN and infinities are text
enum member, dtype, device, path   text
mapping, list, tuple, set          the same of its items; a set is sorted
function, class                    its import path, such as ``"mypackage.losses:focal"``; what has no import path
                                   (a lambda, a closure) has a digest of its code and of what it captures as well,
                                   and so has a function of the script that runs, whose module is its file's name
`functools.partial`, method        the function, with its arguments or its object
object with ``__describe__()``     its class and what that method returns
dataclass                          its name or class, and its fields; those that came later only where they differ
                                   from their default (LEFT_OUT_AT_DEFAULT in fedlama.core.deprecations)
module of PyTorch                  its class, its plain attributes and a digest of its tensors
tensor, array, bytes               a digest of the content
other object                       its class, and its attributes or whatever else pickle would write; what pickle
                                   refuses (a lock, an open file, a generator) is refused with a sentence
=================================  ================================================================================
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlama.core.deprecations import is_left_out
from fedlama.core.registry import is_ours
from fedlama.errors import ConfigError

_OF_CODE = {"function", "digest"}
"""Keys of a function's description where its path does not say what it computes."""
_PLUGIN = "fedlama_plugin_"
"""Modules made of a user's file are called this, a digest and the file's stem; only the stem is a name."""


def describe(value: object, where: str = "value") -> Any:  # noqa: ANN401  (any JSON type)
    """Describe a setting by value.

    Args:
        value: Any object.
        where: What it is, as a dotted key, for the message.

    Returns:
        Plain JSON types, without NaN and infinities.

    Raises:
        ConfigError: It holds something that cannot be described, such as a lock or an open file.

    >>> describe({"rate": 0.5, "decay_at": (1, 2), "loss": describe})
    {'rate': 0.5, 'decay_at': [1, 2], 'loss': 'fedlama.core.description:describe'}
    """
    return _Describer().describe(value, where)


def import_path(named: Any) -> str:  # noqa: ANN401  (a class or a function)
    """Return where a class or function is, such as ``"mypackage.losses:focal"``.

    A class that an experiment found in a user's file is named as the experiment names it, since the module that was
    made of the file has another name on every machine.

    >>> from fedlama.errors import ConfigError
    >>> import_path(ConfigError)
    'fedlama.errors:ConfigError'
    """
    origin = vars(named).get("__fedlama_origin__") if isinstance(named, type) else None
    if origin is not None:
        return str(origin.reference)
    module = str(getattr(named, "__module__", None) or "builtins")
    module = _name_of_script() if module == "__main__" else module
    if module.startswith(_PLUGIN):
        module = module.removeprefix(_PLUGIN).partition("_")[2]
    return f"{module}:{named.__qualname__}"


def _name_of_script() -> str:
    """Return the name under which other programs import the script that runs, so that both describe it alike."""
    script = sys.modules["__main__"]
    spec, file = getattr(script, "__spec__", None), getattr(script, "__file__", None)
    return str(spec.name) if spec is not None else Path(file).stem if file else "__main__"


def code_digest(function: FunctionType) -> str:
    """Return a digest of what a function computes, of its byte code without names of files and numbers of lines.

    Args:
        function: A function of Python.
    """
    return digest(json.dumps(_code(function.__code__)).encode())


def differences(then: object, now: object, where: str = "") -> Iterator[str]:
    """Word what differs between two descriptions, key by key.

    Args:
        then: A description.
        now: Another one.
        where: The dotted key of both.

    Yields:
        Sentences such as ``"solver.momentum was 0.9, and is 0.5 now"``.

    >>> list(differences({"solver": {"momentum": 0.9}}, {"solver": {"momentum": 0.5}}))
    ['solver.momentum was 0.9, and is 0.5 now']
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping) and then.get("name") == now.get("name"):
        if then.keys() == now.keys() == _OF_CODE and then["function"] == now["function"] and then != now:
            yield f"the code of {now['function']} ({where}) has changed, or what it captures"
            return
        for key in dict.fromkeys([*then, *now]):
            inner = f"{where}.{key}" if where else str(key)
            if key not in then:
                yield f"{inner} was not set, and is {_short(now[key])} now"
            elif key not in now:
                yield f"{inner} was {_short(then[key])}, and is not set now"
            else:
                yield from differences(then[key], now[key], inner)
    elif _as_imported(then, now) != _as_imported(now, then) or isinstance(then, bool) is not isinstance(now, bool):
        yield f"{where} was {_short(then)}, and is {_short(now)} now"


def _as_imported(described: object, other: object) -> object:
    """Return the path of a script's function when the other one was imported and is described by its path alone."""
    if isinstance(described, Mapping) and isinstance(other, str) and described.keys() == _OF_CODE:
        return described["function"]
    return described


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


class _Describer:
    """Describes one value; remembers what it is inside of, since an object may hold itself."""

    def __init__(self) -> None:
        self._inside: list[int] = []

    def describe(self, value: Any, where: str) -> Any:  # noqa: ANN401
        plain = _plain(value)
        if plain is not None or value is None:
            return plain
        if id(value) in self._inside:
            raise ConfigError(f"{where} holds itself, so it cannot be described; {_REMEDY}")
        self._inside.append(id(value))
        try:
            return self._compound(value, where)
        finally:
            self._inside.pop()

    def _compound(self, value: Any, where: str) -> Any:  # noqa: ANN401
        if type(value) in (dict, MappingProxyType):
            if all(isinstance(key, str) for key in value):
                return {key: self.describe(item, f"{where}.{key}") for key, item in value.items()}
            return {"entries": self.describe(list(value.items()), where)}
        if type(value) in (list, tuple):
            return [self.describe(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if type(value) in (set, frozenset):
            return sorted((self.describe(item, where) for item in value), key=json.dumps)
        if isinstance(value, (Tensor, np.ndarray)):
            return _array(value)
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": len(value), "digest": digest(bytes(value))}
        if isinstance(value, (type, BuiltinFunctionType)):
            return import_path(value)
        if isinstance(value, FunctionType):
            return self._function(value, where)
        if isinstance(value, MethodType):
            return {"method": value.__func__.__qualname__, "of": self.describe(value.__self__, where)}
        if isinstance(value, functools.partial):
            given = {"arguments": list(value.args), "keywords": dict(value.keywords)}
            return {"partial": self.describe(value.func, where), **self.describe(given, where)}
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:  # noqa: ANN401
        describe = getattr(type(value), "__describe__", None)
        if describe is not None:
            return _identity(value) | self.describe(describe(value), where)
        if is_dataclass(value):
            names = [field.name for field in fields(value) if field.init and not is_left_out(value, field)]
            return _identity(value) | {name: self.describe(getattr(value, name), f"{where}.{name}") for name in names}
        if isinstance(value, nn.Module):
            return _identity(value) | self._module(value, where)
        return _identity(value) | self._state(value, where)

    def _state(self, value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
        """Describe any other object by what makes it again, as copying and pickling it would."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            made = value.__reduce_ex__(_PROTOCOL) if reduce is None else reduce(value)
        except Exception as error:  # whatever an object's own reduction raises
            raise ConfigError(f"{where} is {_article(value)}, which cannot be described; {_REMEDY}") from error
        if isinstance(made, str):
            return {"global": made}
        maker, arguments, state, items, pairs = (*made, None, None, None)[:5]
        if maker is copyreg.__newobj__:  # type: ignore[attr-defined]
            arguments = arguments[1:]  # the first is the class
        attributes: dict[str, Any] = {}
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):  # attributes, and slots
            attributes |= part if isinstance(part, dict) else {} if part is None else {"state": part}
        lists = {"arguments": arguments, "items": items, "entries": pairs}
        attributes |= {key: list(content) for key, content in lists.items() if content}
        return {key: self.describe(item, f"{where}.{key}") for key, item in attributes.items()}

    def _function(self, function: FunctionType, where: str) -> Any:  # noqa: ANN401
        path = import_path(function)
        if "<" not in path and function.__module__ != "__main__":
            return path
        captured = [cell.cell_contents for cell in function.__closure__ or ()]
        values = self.describe([captured, function.__defaults__, function.__kwdefaults__], where)
        content = json.dumps([_code(function.__code__), values], sort_keys=True)
        return {"function": path, "digest": digest(content.encode())}

    def _module(self, module: nn.Module, where: str) -> dict[str, Any]:
        """Describe a module by its plain attributes, its tensors and its children."""
        hidden = {*vars(nn.Module()), "training"}
        attributes = {key: item for key, item in vars(module).items() if key not in hidden}
        described = {key: self.describe(item, f"{where}.{key}") for key, item in attributes.items()}
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        described |= {key: _array(tensor) for key, tensor in tensors.items()}
        return described | {key: self.describe(child, f"{where}.{key}") for key, child in module.named_children()}


_PROTOCOL = 4
_REMEDY = "make it in a method instead of keeping it, or give its class a method __describe__() that returns JSON types"


def _plain(value: Any) -> bool | int | float | str | None:  # noqa: ANN401
    """Return what a plain value is in JSON; None for everything else."""
    if isinstance(value, enum.Enum):
        return f"{import_path(type(value))}.{value.name}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, PurePath):
        return value.as_posix()
    return str(value) if isinstance(value, (complex, torch.dtype, torch.device, np.dtype)) else None


def _identity(value: object) -> dict[str, Any]:
    """Return the name of one of this package's options, or the class, and the digest of a class from a user's file."""
    kind = type(value)
    name, origin = getattr(kind, "name", None), vars(kind).get("__fedlama_origin__")
    ours = is_ours(kind) and origin is None
    named: dict[str, Any] = {"name": name} if isinstance(name, str) else {}
    if not (ours and named):
        named["class"] = import_path(kind)
    return named if origin is None else named | {"code": str(origin.digest)[:16]}


def _array(value: Tensor | np.ndarray[Any, Any]) -> dict[str, Any]:
    """Describe a tensor or an array by its shape, its dtype and a digest of its content."""
    tensor = value.detach().cpu().contiguous() if isinstance(value, Tensor) else None
    content = np.ascontiguousarray(value).tobytes() if tensor is None else _bytes(tensor)
    return {"shape": list(value.shape), "dtype": str(value.dtype), "digest": digest(content)}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _code(code: CodeType) -> list[object]:
    """Return what a function computes, without names of files and numbers of lines."""
    constants = [_code(item) if isinstance(item, CodeType) else _constant(item) for item in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames), list(code.co_freevars)]


def _constant(value: object) -> str:
    """Write a constant; a set of constants has no order of its own."""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _short(value: object) -> str:
    """Write a description for a message, an option by its name alone."""
    if isinstance(value, Mapping) and {"name", "class"} & value.keys():
        return repr(value.get("name", value.get("class")))
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."
