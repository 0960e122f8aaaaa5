"""The schedules that nothing is learnt for: FedAvg, the cyclic schedule and the fixed table, round by round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedlama import ConfigError, Cyclic, FedAvg, FixedIntervals
from fedlama.choices.strategies import Strategy
from fedlama.core.layers import Layers
from tests.core.helpers import layers_of, parameter_layer


def uploads(strategy: Strategy[Any], layers: Layers, rounds: int) -> list[str]:
    """The names that come up in each round, joined in the model's order."""
    state = strategy.init(layers, 0)
    found = []
    for e in range(rounds):
        plan = strategy.plan(state, e)
        assert plan.round_index == e
        assert set(plan.intervals) == {layer.name for layer in layers}
        found.append("".join(layer.name for layer in layers if layer.name in plan.upload))
        state = strategy.fold(state, plan, {})
    return found


# FedAvg


def test_fedavg_uploads_everything_in_every_round() -> None:
    assert uploads(FedAvg(3), layers_of([1, 2, 3]), 2) == ["012", "012"]
    assert (FedAvg(3).local_steps, FedAvg(3).cycle_rounds, FedAvg(3).base_interval) == (3, 1, 3)


# Cyclic


def test_cyclic_by_hand() -> None:
    # Layers 0, 2, 3, 4 are weight tensors, 1 is a bias and always synchronised.
    layers = layers_of([1] * 5, [True, False, True, True, True])
    assert uploads(Cyclic(2), layers, 7) == ["01234", "01", "12", "13", "14", "01", "12"]


def test_cyclic_with_groups_longer_turns_and_full_rounds() -> None:
    layers = layers_of([1] * 3)
    strategy = Cyclic(2, layers_per_turn=2, rounds_per_turn=2, opening_rounds=2, full_rounds=1)
    turns = ["01", "01", "2", "2", "012"]
    assert uploads(strategy, layers, 13) == ["012", "012", *turns, *turns, "01"]


def test_cyclic_freezes_what_is_not_on_turn() -> None:
    layers = layers_of([1] * 3)
    strategy = Cyclic(2, opening_rounds=0)
    state = strategy.init(layers, 0)
    for e in range(6):
        plan = strategy.plan(state, e)
        assert plan.upload == {str(e % 3)}
        assert plan.frozen == {"0", "1", "2"} - plan.upload
        assert not plan.held(layers)
        assert plan.cycle_start
        assert plan.intervals == {name: 1 if name in plan.upload else 3 for name in "012"}


def test_cyclic_without_opening_and_without_weight_tensors() -> None:
    assert uploads(Cyclic(1, opening_rounds=0), layers_of([1, 1]), 3) == ["0", "1", "0"]
    assert uploads(Cyclic(1), layers_of([1, 1], [False, False]), 3) == ["01"] * 3


# The fixed table


def test_fixed_table_by_hand() -> None:
    layers = layers_of([1, 1, 1])
    strategy = FixedIntervals(5, {"0": 2, "1": 3})
    assert uploads(strategy, layers, 6) == ["2", "02", "12", "02", "2", "012"]
    assert strategy.cycle_rounds == 6
    starts = [strategy.plan(strategy.init(layers, 0), e).cycle_start for e in range(8)]
    assert starts == [True, False, False, False, False, False, True, False]


def test_fixed_table_first_matching_pattern_counts() -> None:
    layers = tuple(parameter_layer(name, 1) for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "norm"))
    table = {"fc1.weight": 4, "*.bias": 1, "fc*.weight": 8, "*": 2}
    assert FixedIntervals(1, table).init(layers, 0) == {
        "fc1.weight": 4,
        "fc1.bias": 1,
        "fc2.weight": 8,
        "fc2.bias": 1,
        "norm": 2,
    }


def test_fixed_table_leaves_the_rest_at_the_base_interval() -> None:
    assert FixedIntervals(1, {"0": 3}).init(layers_of([1, 1]), 0) == {"0": 3, "1": 1}
    assert FixedIntervals(1).cycle_rounds == 1


def test_fixed_table_entries_that_match_nothing_are_told_together() -> None:
    layers = tuple(parameter_layer(name, 1) for name in ("fc1.weight", "fc1.bias"))
    with pytest.raises(ConfigError) as caught:
        FixedIntervals(1, {"fc1.wieght": 2, "conv*": 3, "*.bias": 2}).init(layers, 0)
    assert len(caught.value.problems) == 2
    assert "did you mean 'fc1.weight'?" in caught.value.problems[0]
    assert "known are: fc1.bias, fc1.weight" in caught.value.problems[1]


@pytest.mark.parametrize("interval", [0, -2, 1.5, True, "3", float("nan")])
def test_fixed_table_intervals_are_whole_numbers(interval: object) -> None:
    with pytest.raises(ConfigError, match="whole number of rounds"):
        FixedIntervals(1, {"a": interval})


@pytest.mark.parametrize(
    "build",
    [
        lambda: FedAvg(0),
        lambda: FixedIntervals(0),
        lambda: Cyclic(0),
        lambda: Cyclic(1, layers_per_turn=0),
        lambda: Cyclic(1, rounds_per_turn=0),
        lambda: Cyclic(1, opening_rounds=-1),
        lambda: Cyclic(1, full_rounds=-1),
    ],
)
def test_intervals_below_one_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="or more; use a larger number"):
        build()
