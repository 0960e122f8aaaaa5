"""What the package says to its users, read from its syntax trees, and which names that advice uses."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.structure.source import SRC, modules, nodes

_VALUE = "\N{WHITE SQUARE}"
"""Stands for a value that is only known when the message is made."""


class Message(NamedTuple):
    """A text for users.

    Attributes:
        module: The module that has it.
        line: Its line.
        text: The text, with a white square for each value.
    """

    module: str
    line: int
    text: str

    @property
    def remedy(self) -> str:
        """What was expected and what to do."""
        starts = [place for word in ("expected ", "; ") if (place := self.text.find(word)) >= 0]
        return self.text[min(starts) :] if starts else ""


class Advice(NamedTuple):
    """A name that a message uses.

    Attributes:
        kind: ``"option"`` for ``--out``, ``"argument"`` for ``name=``, ``"call"`` for ``name(``, ``"command"`` for
            ``fedlama run``, ``"key"`` for ``section.key`` and ``snake_case``, ``"choice"`` for a quoted word.
        name: The name.
        owner: For an argument inside of a call, what is called.
    """

    kind: str
    name: str
    owner: str = ""


def messages() -> list[Message]:
    """Return every text of two words or more, docstrings and help texts left out."""
    return [
        message
        for module, file in modules().items()
        if "reporting.html" not in module
        for message in messages_of(module, file.read_text(encoding="utf-8"))
    ]


def messages_of(module: str, source: str) -> Iterator[Message]:
    """Yield the texts of one module."""
    tree = ast.parse(source)
    silent = {id(part) for node in ast.walk(tree) for part in _silent(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in silent:
            text = _text(node)
            if " " in text.strip():
                yield Message(module, node.lineno, text)


def _silent(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that are no texts of their own: docstrings, pieces of f-strings, help texts."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value
    if isinstance(node, ast.JoinedStr):
        yield from (part for part in node.values if isinstance(part, ast.Constant))
    if isinstance(node, ast.keyword) and node.arg in ("help", "metavar"):
        yield from ast.walk(node.value)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else _VALUE for part in node.values)
    return ""


_CALL = re.compile(r"(?<![\w.])((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*|\.[a-z_]+)\(([^()]*)\)?")
_ARGUMENT = re.compile(rf"(?<![\w.-])([a-z_][\w.]*)=(?=[\w'\"\[.({_VALUE}])")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_COMMAND = re.compile(r"`(fedlama [a-z ]+)`")
_SNAKE = re.compile(r"(?<![\w./`'-])([a-z]+(?:_[a-z0-9]+)+)(?![\w(=/.]|-[a-z])")
_TICKED = re.compile(r"`([a-z_]+)`")
_QUOTED = re.compile(r"'([a-z][a-z0-9_-]+)'")
_DOTTED = re.compile(r"(?<![\w./])([a-z_]+\.[a-z_]+)(?![\w(.=])")


def advice(message: Message) -> list[Advice]:
    """Return the names that a message uses.

    >>> advice(Message("m", 1, "seed is 1; set data.test_share=0.1, or Parts(test=None) in Python, see --out"))
    [Advice(kind='argument', name='data.test_share', owner=''), Advice(kind='argument', name='test', owner='Parts'), \
Advice(kind='call', name='Parts', owner=''), Advice(kind='option', name='--out', owner='')]
    """
    text = message.text
    found: list[Advice] = []
    inside: set[int] = set()
    for call in _CALL.finditer(text):
        if call[2].startswith(_VALUE):  # shows a value, and advises nothing
            continue
        found.append(Advice("call", call[1]))
        for argument in _ARGUMENT.finditer(call[2]):
            inside.add(call.start(2) + argument.start())
            found.append(Advice("argument", argument[1], call[1]))
    found += [Advice("argument", item[1]) for item in _ARGUMENT.finditer(text) if item.start() not in inside]
    found += [Advice("option", item[0]) for item in _OPTION.finditer(text)]
    found += [Advice("command", item[1]) for item in _COMMAND.finditer(text)]
    found += [Advice("key", item[1]) for pattern in (_SNAKE, _TICKED, _DOTTED) for item in pattern.finditer(text)]
    found += [Advice("choice", item[1]) for item in _QUOTED.finditer(message.remedy)]
    return sorted(set(found))


def parameters(file: Path) -> set[str]:
    """Return the names of all arguments of a file's functions and classes."""
    names: set[str] = set()
    for node in nodes(file):
        if isinstance(node, ast.FunctionDef):
            names |= {item.arg for item in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
        if isinstance(node, ast.ClassDef):
            names |= {
                part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
    return names


@functools.cache
def all_parameters() -> set[str]:
    """Return the names of all arguments and fields of the package."""
    return set().union(*(parameters(file) for file in SRC.rglob("*.py")))
