"""The package asks its objects what they are and can do, by their properties and methods, and not for their classes."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.structure.source import SRC, importable, modules, nodes

GIVEN = "what the user gave or what the user's code returned may be anything, and is checked"
COMPILED = "a program is compiled from a closed set of operations, which know nothing of the kernels"
EXACT = "exactly these two are made of an objective, and not their subclasses"
ALLOWED = {
    ("data/sources.py", "ClientData"): GIVEN,
    ("experiment/build.py", "Dataset"): GIVEN,
    ("federation/evaluation.py", "Score"): GIVEN,
    ("flower/client/function.py", "Score"): GIVEN,
    (
        "federation/settings.py",
        "Classification",
    ): EXACT,
    ("federation/settings.py", "FunctionTask"): EXACT,
    ("data/restricted_pickle.py", "_Array"): "the stack of a pickle holds any values",
    ("kernels/memory.py", "MemoryType"): "Numba's extensions are given the types of arguments",
    **{
        (f"kernels/{file}.py", name): COMPILED
        for file, names in (
            ("program", "Flatten Dense Relu Dropout Add Convolution MaxPool MeanPool Norm GroupNorm Mean"),
            ("program", "LayerNorm Gelu Embedding AddPositions Attention"),
            ("steps", "Relu MaxPool"),
        )
        for name in names.split()
    },
}
"""The classes of the package that a file may ask for, each with the reason."""


def asked(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """Yield what stands for the class in ``isinstance(x, C)``, ``issubclass(x, C)``, ``type(x) is C`` and the like.

    >>> code = "isinstance(x, A | b.C) and type(x) in (D, E) or type(x) != F"
    >>> sorted(ast.unparse(expression) for expression in asked(ast.walk(ast.parse(code))))
    ['(D, E)', 'A | b.C', 'F']
    """
    for node in nodes:
        if _calls(node, "isinstance", "issubclass"):
            yield node.args[1]  # type: ignore[attr-defined]
        if isinstance(node, ast.Compare) and _calls(node.left, "type"):
            yield from node.comparators


def _calls(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def namespace(module: str, nodes: Iterable[ast.AST]) -> dict[str, Any]:
    """Return a module's names and those that its functions import from the package."""
    known = dict(vars(importlib.import_module(module)))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in importable():
            source = importlib.import_module(str(node.module))
            known |= {alias.asname or alias.name: getattr(source, alias.name, None) for alias in node.names}
    return known


def own_classes(module: str, file: Path) -> set[str]:
    """Return the names of the package's classes that a module asks for.

    Exceptions are not counted, since `except` asks for their class too, and protocols are not: they ask for members.
    """
    known = namespace(module, nodes(file))
    names = set()
    for expression in asked(nodes(file)):
        for node in ast.walk(expression):
            if isinstance(node, ast.Name | ast.Attribute):
                try:
                    cls = eval(ast.unparse(node), known)
                except (NameError, AttributeError):  # a local name: it does not name a class
                    continue
                own = isinstance(cls, type) and cls.__module__.split(".")[0] == "fedlama"
                if own and not issubclass(cls, BaseException) and not getattr(cls, "_is_protocol", False):
                    names.add(cls.__name__)
    return names


def test_no_module_asks_for_the_class_of_an_object_of_ours() -> None:
    pytest.importorskip("numba")  # without it a module of the kernels cannot be imported
    every = {name: modules()[name] for name in importable()}
    asks = {(file.relative_to(SRC).as_posix(), cls) for name, file in every.items() for cls in own_classes(name, file)}
    assert sorted(asks - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - asks) == [], "remove what is no longer needed"


def test_a_question_for_a_class_is_found(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "def f(x):\n    from fedlama.choices.solvers import SGD as Plain\n    return isinstance(x, (int, Plain))\n",
        encoding="utf-8",
    )
    assert own_classes("fedlama.federation.federation", file) == {"SGD"}
