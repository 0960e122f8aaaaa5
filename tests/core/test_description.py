"""Settings described by value: equal ones alike, different ones differently, and never anything left out silently."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fedlama as fl
from fedlama.core.description import describe, differences, import_path
from fedlama.engines import ENGINES
from fedlama.experiment.sections import SECTIONS, options


class Colour(enum.Enum):
    """An enumeration of one member."""

    RED = 1


@dataclass(frozen=True)
class Inner:
    """Settings inside a choice."""

    rate: float = 0.5


@dataclass(frozen=True)
class Mine:
    """A choice of a user's own, with much that JSON does not know."""

    name: ClassVar[str] = "mine"
    inner: Inner = field(default_factory=Inner)
    table: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"a": (1, 2)})
    path: Path = Path("some/file")
    colour: Colour = Colour.RED
    weights: torch.Tensor | None = None
    rule: Callable[..., Any] = functional.nll_loss
    cache: dict[str, int] = field(default_factory=dict, init=False, compare=False)


class Plain:
    """A class that is no dataclass."""

    def __init__(self, rate: float = 0.1) -> None:
        self._rate = rate


class Slotted:
    """A class without a dict."""

    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Named(dict[str, int]):
    """A mapping with an attribute."""


class Described:
    """Says itself what it is; the lock could not be described."""

    def __init__(self, rate: float) -> None:
        self.rate, self.lock = rate, threading.Lock()

    def __describe__(self) -> dict[str, object]:
        return {"rate": self.rate}


def scaled(factor: float) -> Callable[[float], float]:
    return lambda loss: factor * loss


def named(size: int) -> Named:
    made = Named(a=1)
    made.size = size  # type: ignore[attr-defined]
    return made


def module(size: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.CrossEntropyLoss(label_smoothing=size), nn.ReLU())


PAIRS: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (lambda rate: Mine(inner=Inner(rate)), 0.1, 0.2),
    (lambda value: Mine(table={"a": value}), (1, 2), (1, 3)),
    (lambda path: Mine(path=Path(path)), "a/b", "a/c"),
    (lambda seed: Mine(weights=torch.full((2,), seed)), 1.0, 2.0),
    (lambda rule: Mine(rule=rule), functional.nll_loss, functional.mse_loss),
    (scaled, 1.0, 2.0),
    (lambda value: functools.partial(functional.nll_loss, reduction=value), "sum", "mean"),
    (Plain, 0.1, 0.2),
    (Slotted, 0.1, 0.2),
    (Described, 0.1, 0.2),
    (named, 1, 2),
    (module, 0.0, 0.1),
    (lambda rate: Plain(rate).__init__, 0.1, 0.2),  # type: ignore[misc]  (a bound method)
    (lambda seed: np.full(3, seed), 1, 2),
    (random.Random, 1, 2),
    (np.random.default_rng, 1, 2),
    (re.compile, "a", "b"),
    (lambda year: datetime.date(year, 1, 1), 2026, 2027),
    (lambda item: collections.deque([item]), 1, 2),
    (lambda item: {item: 1}, 1, "1"),
    (lambda item: {item, "b"}, "a", "c"),
    (lambda item: b"%d" % item, 1, 2),
    (bool, True, False),
    (lambda value: value, True, 1),
    (lambda value: value, float("nan"), float("inf")),
]


@pytest.mark.parametrize(("make", "one", "other"), PAIRS)
def test_equal_settings_are_described_alike_and_different_ones_differently(
    make: Callable[[Any], Any],
    one: Any,  # noqa: ANN401
    other: Any,  # noqa: ANN401
) -> None:
    described = describe(make(one))
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert list(differences(described, describe(make(one)))) == []
    assert list(differences(described, describe(make(other)))) != []


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        (number for number in range(3)),
        Plain(rate=threading.Lock()),  # type: ignore[arg-type]
        Mine(table={"a": (threading.Lock(),)}),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_described_is_refused_with_its_place_and_a_remedy(value: object) -> None:
    with pytest.raises(fl.ConfigError, match=r"^strategy\S* is a (lock|generator), which .* give its class a method"):
        describe(value, "strategy")


def test_an_open_file_and_an_object_that_holds_itself_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(fl.ConfigError, match="is a TextIOWrapper"):
        describe(file)
    loop = Plain()
    loop._rate = loop  # type: ignore[assignment]
    with pytest.raises(fl.ConfigError, match=r"solver\._rate holds itself"):
        describe(loop, "solver")


def test_a_users_class_has_its_import_path_and_all_its_fields() -> None:
    described = describe(Mine(weights=torch.ones(2)))
    assert list(described) == ["name", "class", "inner", "table", "path", "colour", "weights", "rule"]
    assert described["class"] == "tests.core.test_description:Mine"
    assert described["inner"] == {"class": "tests.core.test_description:Inner", "rate": 0.5}
    assert described["colour"] == "tests.core.test_description:Colour.RED"
    assert described["rule"] == "torch.nn.functional:nll_loss"
    assert described["weights"].keys() == {"shape", "dtype", "digest"}


def test_one_of_our_options_has_its_name_alone() -> None:
    assert describe(fl.UniformSampler(3)) == {"name": "uniform", "active": 3, "hold_rounds": 1}


def test_a_class_from_a_file_is_named_as_the_user_named_it() -> None:
    @dataclass(frozen=True)
    class Own:
        name: ClassVar[str] = "own"

    @dataclass
    class Origin:
        reference: str
        digest: str

    setattr(Own, "__fedlama_origin__", Origin("my_file.py:Own", "0123456789abcdef0123"))  # noqa: B010
    assert describe(Own()) == {"name": "own", "class": "my_file.py:Own", "code": "0123456789abcdef"}
    Own.__module__ = "fedlama_plugin_0123456789abcdef_my_file"
    Own.__qualname__ = "helper"
    delattr(Own, "__fedlama_origin__")
    assert import_path(Own) == "my_file:helper"


def test_every_default_of_this_package_can_be_described() -> None:
    for name, section in SECTIONS.items():
        described = describe(section.default, name)
        assert described["name"] in options(name)
        assert json.loads(json.dumps(described, allow_nan=False)) == described
    for engine in ENGINES.values():
        describe(engine)


def test_a_closure_of_the_same_code_and_values_is_the_same() -> None:
    assert describe(scaled(2.0)) == describe(scaled(2.0))
    assert describe(scaled(2.0))["function"] == "tests.core.test_description:scaled.<locals>.<lambda>"


def test_differences_are_worded_key_by_key() -> None:
    then = {"a": {"name": "x", "p": 1, "q": [1]}, "b": {"name": "y", "r": 2}, "c": 1}
    now = {"a": {"name": "x", "p": 2, "q": [1]}, "b": {"name": "z", "s": 2}, "d": None}
    assert list(differences(then, now)) == [
        "a.p was 1, and is 2 now",
        "b was 'y', and is 'z' now",
        "c was 1, and is not set now",
        "d was not set, and is null now",
    ]
