"""States of a user's strategy: what comes back from a checkpoint is what was stored, or it is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.federation.strategy_state import restore_state, store_state


@dataclass(frozen=True)
class Counts:
    """A state with what JSON does not have: a tuple, a set, and integers as keys."""

    rounds: tuple[int, ...]
    names: frozenset[str]
    by_number: dict[int, float]


@dataclass(frozen=True)
class Typed(fl.Strategy[Counts]):
    """A strategy whose state is a dataclass."""

    name: ClassVar[str] = "typed"
    base_interval: int

    def init(self, layers: fl.Layers, seed: int) -> Counts:
        return Counts((), frozenset(layer.name for layer in layers), {0: 0.5})

    def plan(self, state: Counts, round_index: int) -> fl.Plan:
        assert state.by_number[0] == 0.5
        return fl.Plan(round_index, state.names, dict.fromkeys(state.names, 1), cycle_start=True)

    def fold(self, state: Counts, plan: fl.Plan, statistics: Any) -> Counts:  # noqa: ANN401
        return replace(state, rounds=(*state.rounds, plan.round_index))


@dataclass(frozen=True)
class Annotated(Typed):
    """A strategy whose state is a dictionary, with its type at `init`."""

    def init(self, layers: fl.Layers, seed: int) -> dict[int, tuple[str, ...]]:  # type: ignore[override]
        return {0: tuple(layer.name for layer in layers)}

    def plan(self, state: Any, round_index: int) -> fl.Plan:  # noqa: ANN401
        return fl.Plan(round_index, frozenset(state[0]), dict.fromkeys(state[0], 1), cycle_start=True)

    def fold(self, state: Any, plan: fl.Plan, statistics: Any) -> Any:  # noqa: ANN401
        return {**state, plan.round_index + 1: ("done",)}


@dataclass(frozen=True)
class Untyped(Annotated):
    """The same without the type: integers would come back as texts, tuples as lists."""

    def init(self, layers: fl.Layers, seed: int) -> Any:  # type: ignore[override]  # noqa: ANN401
        return {0: tuple(layer.name for layer in layers)}


def federation(strategy: fl.Strategy[Any]) -> fl.Federation:
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randint(0, 2, (40,))
    return fl.Federation(nn.Linear(6, 2), [fl.ClientData(x[i::2], y[i::2], 5) for i in range(2)], strategy, 8)


@pytest.mark.parametrize("strategy", [Typed(2), Annotated(2)], ids=["dataclass", "annotation"])
def test_a_state_comes_back_as_it_was(strategy: fl.Strategy[Any]) -> None:
    run = fl.Run(federation(strategy))
    records = [run.advance(), run.advance()]
    snapshot = run.state_dict()
    again = fl.Run(federation(strategy))
    again.load_state_dict(replace(snapshot, facts=json.loads(json.dumps(snapshot.facts))), records)
    assert (again.state, type(again.state)) == (run.state, type(run.state))
    run.advance()
    again.advance()
    assert again.state == run.state
    assert all(torch.equal(again.values[name], value) for name, value in run.values.items())


def test_a_state_that_would_come_back_changed_is_refused() -> None:
    run = fl.Run(federation(Untyped(2)))
    run.advance()
    with pytest.raises(fl.ConfigError, match="the state of the strategy 'typed' cannot be stored in a checkpoint"):
        run.state_dict()


@pytest.mark.parametrize("state", [None, 3, {"a": [1, 2]}, ("a", "b"), [[]]])
def test_plain_states(state: object) -> None:
    stored = json.loads(json.dumps(store_state(Untyped(2), state)))
    assert repr(restore_state(Untyped(2), state, stored)) == repr(state)


@pytest.mark.parametrize(
    "state", [object(), {(1, 2): 3}, {"a": (1,)}, {"a": torch.ones(2)}, {"a": {1, 2}}, {"a": math.nan}]
)
def test_states_that_json_cannot_hold(state: object) -> None:
    with pytest.raises(fl.ConfigError, match="cannot be stored in a checkpoint"):
        store_state(Untyped(2), state)
