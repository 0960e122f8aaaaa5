"""Advice that can be followed: every name that a message uses exists where its reader is."""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import typer
from torch import Tensor, nn

import fedlama
from fedlama.cli.app import app
from fedlama.engines import ENGINES
from fedlama.experiment.sections import SECTIONS, options
from fedlama.experiment.settings import Settings
from tests.structure.messages import Advice, Message, advice, all_parameters, messages, messages_of, parameters
from tests.structure.source import importable, modules

ELSEWHERE = {
    "--node-config": "Flower's command for a node",
    "--nproc-per-node": "torchrun's option",
    "--plugins-dir": "an option of `fedlama flower run`, whose tree is checked as well",
    "configrecord_key": "an option of Flower's FedAvg",
    "fraction_train": "an option of Flower's FedAvg",
    "datasets.Dataset.from_list": "the library datasets, an extra",
    "datasets.Dataset.map": "the library datasets",
    "save_to_disk": "the library datasets",
    "streaming": "an argument of datasets.load_dataset",
    "num_samples": "a key of LEAF's files",
    "padding_idx": "an argument of torch.nn.Embedding",
    "prune.remove": "torch.nn.utils.prune",
    "self.register_buffer": "a method of torch.nn.Module",
    "statistics_travel": "a key of the first version's descriptions",
    "task.fields": "a template of a progress bar",
    "max": "an attribute of a progress element in HTML",
    "fedlama_app.client_app": "a file that the deployment writes",
    "fedlama_app.server_app": "a file that the deployment writes",
    "server_app": "a file that the deployment writes",
    "client_app": "a file that the deployment writes",
    "dataclass": "Python's decorator",
    "__describe__": "a method of the user's own class",
}
"""Names that are not the package's, with what they are."""
FILES = ("npz", "json", "jsonl", "py", "sh", "log", "toml", "txt", "safetensors", "html", "md")
ARRAYS = {"x_train", "y_train", "x_test", "y_test"}
GIVEN = re.compile(r"\w+=\N{WHITE SQUARE}")
"""What a message says was given, which is not advice."""


def command_names() -> tuple[set[str], set[str]]:
    """Return all commands of the command line, and all their options."""
    commands, given = set(), set()

    def visit(command: Any, path: str) -> None:  # noqa: ANN401  (a command of the parser that Typer brings)
        commands.add(path)
        given.update(name for parameter in command.params for name in parameter.opts)
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{path} {name}")

    visit(typer.main.get_command(app), "fedlama")
    return commands, given


COMMANDS, OPTIONS = command_names()


def words() -> set[str]:
    """Return the names of all options of an experiment, and the words that their settings accept."""
    classes = [option for section in SECTIONS for option in options(section).values()]
    hints = [hint for cls in [*classes, Settings] for hint in get_type_hints(cls).values()]
    literals = {word for hint in hints for part in [hint, *get_args(hint)] for word in get_args(part)}
    engines = {word for engine in ENGINES for word in ("float32", engine)}
    return {cls.name for cls in classes} | {word for word in literals if isinstance(word, str)} | engines | {"cpu"}


WORDS = words()


def found(name: str) -> list[Any]:
    """Return what a dotted name in a message can stand for."""
    if name.startswith("."):
        return [getattr(owner, name[1:]) for owner in (Tensor, np.ndarray) if hasattr(owner, name[1:])]
    root, *rest = name.split(".")
    if root in ("fedlama", "torch", "numpy"):
        value: Any = importlib.import_module(root)
        for part in rest:
            if not hasattr(value, part):
                return []
            value = getattr(value, part)
        return [value]
    if rest:  # a variable's method, such as model.to_empty
        return [getattr(owner, rest[-1]) for owner in (Tensor, np.ndarray, nn.Module) if hasattr(owner, rest[-1])]
    owners = [
        fedlama,
        Tensor,
        np.ndarray,
        builtins,
        *(section.contract for section in SECTIONS.values()),
        *(importlib.import_module(module) for module in importable() if is_light(module)),
    ]
    return [getattr(owner, name) for owner in owners if hasattr(owner, name)]


def is_light(module: str) -> bool:
    """Return whether a module needs no extra to be imported."""
    return not module.startswith(("fedlama.flower.apps", "fedlama.__main__"))


def is_key(dotted: str) -> bool:
    """Return whether ``section.key`` is a key of one of the section's options, or ``name``."""
    section, _, key = dotted.partition(".")
    return section in SECTIONS and (key == "name" or any(key in keys_of(cls) for cls in options(section).values()))


def keys_of(cls: type[Any]) -> set[str]:
    """Return the keys of an option, those of the tables inside it included."""
    inner = [part for hint in get_type_hints(cls).values() for part in get_args(hint) if is_dataclass(part)]
    return {field.name for part in [cls, *inner] for field in fields(part)}


def exists(item: Advice) -> bool:
    """Return whether a name that a message uses is there."""
    if item.name in ELSEWHERE or item.name in ARRAYS or item.name.rpartition(".")[2] in FILES:
        return True
    if item.kind == "option":
        return item.name in OPTIONS
    if item.kind == "command":
        return item.name in COMMANDS
    if item.kind == "choice":
        return item.name in WORDS
    if item.kind == "call":
        return bool(found(item.name)) or item.name in all_parameters()
    if item.owner and item.owner not in ELSEWHERE:
        return any(accepts(value, item.name) for value in found(item.owner))
    if "." in item.name:
        root, _, last = item.name.rpartition(".")
        return (
            is_key(item.name) or bool(found(item.name)) or (root not in SECTIONS and {root, last} <= all_parameters())
        )
    return item.name in all_parameters() or bool(item.kind == "key" and found(item.name))


def accepts(value: Any, argument: str) -> bool:  # noqa: ANN401  (a class or a function)
    """Return whether something that is called takes an argument."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return False
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return argument in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds


def registered_in(module: str) -> list[type[Any]]:
    """Return the options of experiments that a module defines."""
    return [cls for section in SECTIONS for cls in options(section).values() if cls.__module__ == module]


def unreachable(message: Message) -> Iterator[str]:
    """Yield the arguments that a message advises to set, although an experiment, where its reader may be, has no key.

    A loader's function may take more than its option in an experiment. Advice to use such an argument must say that it
    is for Python.
    """
    mine = registered_in(message.module)
    if not mine or "Python" in message.text:
        return
    keys = set().union(keys_of(Settings), *(keys_of(cls) for cls in mine))
    known = parameters(modules()[message.module])
    for item in advice(message._replace(text=GIVEN.sub("", message.text))):
        if item.kind in ("argument", "key") and not item.owner and item.name in known and item.name not in keys:
            yield item.name


@functools.cache
def everything_said() -> list[Message]:
    """Return all messages; they are read when the first test needs them, not when pytest collects."""
    return messages()


def problems(message: Message) -> list[str]:
    wrong = [f"{item.kind} {item.name}" for item in advice(message) if not exists(item)]
    return wrong + [f"{name} is for Python only" for name in unreachable(message)]


def test_all_messages_are_collected() -> None:
    texts = [message.text for message in everything_said()]
    assert len(texts) > 600
    for part in ("allow short batches: short_clients=true", "lower the learning rate", "--again retrains them"):
        assert any(part in text for text in texts), part


def test_what_messages_name_exists_where_the_reader_is() -> None:
    wrong = [
        f"{message.module}, line {message.line}: {', '.join(names)}: {message.text}"
        for message in everything_said()
        if (names := problems(message))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "text", "problem"),
    [
        ("fedlama.data.text", "no speaker has text; pass small_speakers='merge'", "argument small_speakers"),
        ("fedlama.data.npz_folder", "it is too large; raise limit=5 if that is right", "limit is for Python only"),
        ("fedlama.federation.run", "client 0 is small; set Federation(short_clients=True)", "argument short_clients"),
        ("fedlama.cli.app", "it is there already; use --force", "option --force"),
        ("fedlama.cli.app", "nothing is there; start `fedlama train` first", "command fedlama train"),
        ("fedlama.core.plan", "one row is wrong; raise `klasses`", "key klasses"),
        ("fedlama.core.plan", "it is off; set solver.rate to 1", "key solver.rate"),
        ("fedlama.core.plan", "it is off; choose 'paralel'", "choice paralel"),
        ("fedlama.core.plan", "it is off; call fedlama.repair(run)", "call fedlama.repair"),
        ("fedlama.core.plan", "it is off; lower max_rounds", "key max_rounds"),
    ],
)
def test_advice_that_cannot_be_followed_is_found(module: str, text: str, problem: str) -> None:
    for source in (
        f"raise ValueError({text!r})",
        f"raise ValueError(f{('{x} ' + text)!r})",
        f"problems.append({text!r})",
    ):
        (message,) = messages_of(module, source)
        assert problem in problems(message)
