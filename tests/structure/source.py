"""The package's own modules, what they import and what functions they define, read from their syntax trees.

The tests ask for these again and again, so each is computed once; nothing changes a file of the package while they run.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.docs.blocks import DOCS, ROOT

SRC = ROOT / "src" / "fedlama"


class Import(NamedTuple):
    """One import of a module of the package by another.

    Attributes:
        file: The importing file, relative to the package.
        line: The line of the import.
        importer: The importing module, such as ``fedlama.core.plan``.
        imported: The imported module.
    """

    file: Path
    line: int
    importer: str
    imported: str


class Function(NamedTuple):
    """One function or method.

    Attributes:
        file: Its file, relative to the package.
        line: Its first line.
        name: Its name.
        lines: Its length in lines.
        arguments: Number of its arguments, ``self`` and ``cls`` not counted.
    """

    file: Path
    line: int
    name: str
    lines: int
    arguments: int


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module's file by its dotted name."""
    names = {}
    for file in sorted(SRC.rglob("*.py")):
        parts = ("fedlama", *file.relative_to(SRC).with_suffix("").parts)
        names[".".join(part for part in parts if part != "__init__")] = file
    return names


@functools.cache
def importable() -> tuple[str, ...]:
    """Return the modules that can be imported here, without Flower and without Triton, which only CUDA needs."""
    without = [".flower.apps", ".dropin.strategy", ".triton_kernels"]
    if find_spec("cryptography") is None:  # secure aggregation needs it; the extra flower brings it
        without += [".flower.client.masked", ".flower.client.secrets", ".flower.secure.masks", ".flower.server.secure"]
    return tuple(name for name in modules() if not name.endswith(tuple(without)))


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file's syntax tree.

    Args:
        file: A file of Python.
    """
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def room_of(module: str) -> str:
    """Return the room that a module belongs to, ``""`` for the package itself.

    >>> room_of("fedlama.core.plan"), room_of("fedlama")
    ('core', '')
    """
    return [*module.split("."), ""][1]


def floors() -> list[list[str]]:
    """Return the rooms in their order, lowest first, as docs/architecture.md lists them.

    Rooms in one inner list do not import each other.
    """
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    block = page.split("```rooms\n")[1].split("```")[0]
    return [[room.strip() for room in floor.split(",")] for floor in block.split("<")]


@functools.cache
def imports() -> tuple[Import, ...]:
    """Return the imports between modules of the package, those for type checkers and inside functions included."""
    known = modules()
    listed = []
    for name, file in known.items():
        for node in nodes(file):
            for imported in _imported(node, name, file):
                while imported not in known:  # a name in a module
                    imported = imported.rpartition(".")[0]
                if imported != name:
                    listed.append(Import(file.relative_to(SRC), getattr(node, "lineno", 0), name, imported))
    return tuple(listed)


def imported_packages(folder: Path) -> set[str]:
    """Return the top-level packages that the files below a folder import."""
    packages = set()
    for file in folder.rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                packages.add(node.module.split(".")[0])
    return packages


def cycles() -> list[list[str]]:
    """Return the groups of modules that import each other in a cycle: strongly connected components, by Tarjan."""
    edges: dict[str, set[str]] = {name: set() for name in modules()}
    for item in imports():
        edges[item.importer].add(item.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for imported in edges[module]:
            if imported not in index:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], index[imported])
        if low[module] == index[module]:
            cut = stack.index(module)
            components.append(sorted(stack[cut:]))
            del stack[cut:]

    for module in edges:
        if module not in index:
            visit(module)
    return [component for component in components if len(component) > 1]


@functools.cache
def functions() -> tuple[Function, ...]:
    """Return every function and method of the package."""
    listed = []
    for file in modules().values():
        for node in nodes(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([argument for argument in given if argument.arg not in ("self", "cls")])
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                listed.append(Function(file.relative_to(SRC), node.lineno, node.name, lines, count))
    return tuple(listed)


def _imported(node: ast.AST, importer: str, file: Path) -> Iterator[str]:
    """Return the dotted names of the package that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fedlama")
    if isinstance(node, ast.ImportFrom):
        parts = importer.split(".") if file.name == "__init__.py" else importer.split(".")[:-1]
        base = ".".join(parts[: len(parts) - node.level + 1]) + "." if node.level else ""
        source = (base + (node.module or "")).rstrip(".")
        if source.split(".")[0] == "fedlama":
            yield from (f"{source}.{alias.name}" for alias in node.names)
