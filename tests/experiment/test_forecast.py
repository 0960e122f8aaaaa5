"""The forecast against the ledger of the real run."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import nn

from fedlama import (
    Absence,
    AdaComm,
    ClientData,
    Cyclic,
    FedAvg,
    Federation,
    FedLAMA,
    FedLDF,
    FedLP,
    FedLUAR,
    FixedIntervals,
    Float16,
    Ledger,
    RandomAbsence,
    Run,
    Trace,
    UniformSampler,
    by_mapping,
    by_module,
)
from fedlama.analysis.forecast import Forecast, Volume, forecast
from fedlama.analysis.links import PROFILES
from fedlama.analysis.preview import preview
from fedlama.choices.strategies import Courses, LayerStatistics, Plan, Strategy
from fedlama.choices.strategies.cutoff import Curves
from fedlama.choices.strategies.fedlama import FedLAMAState
from fedlama.choices.strategies.fedluar import FedLUARState
from fedlama.cli import tables
from fedlama.core.layers import Layers, total_parameters
from fedlama.core.ledger import cost_percent
from fedlama.experiment import read, resolve

BASE, STEPS = 2, 14  # seven rounds: no multiple of the cycles below
PART = {"sampler": UniformSampler(2)}
HELD = {"sampler": UniformSampler(2, hold_rounds=3)}


def federation(strategy: Any, steps: int = STEPS, **changes: Any) -> Federation:  # noqa: ANN401
    """A network with BatchNorm on five clients' random numbers."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, 4, 4, generator=draw)
    y = torch.randint(0, 3, (60,), generator=draw)
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(convolution, nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    clients = [ClientData(x[i::5], y[i::5], batch_size=4) for i in range(5)]
    return Federation(model, clients, strategy, steps, **changes)


def foreseen(own: Federation) -> Forecast:
    return forecast(
        own.strategy,
        Run(own).layers,
        codec=own.codec,
        sampler=own.sampler,
        population=5,
        local_steps=own.local_steps,
        base_interval=BASE,
        availability=own.availability,
        seed=own.seed,
    )


def limits(expected: Forecast) -> tuple[tuple[int, int, float], tuple[int, int, float]]:
    return moved(expected.low), moved(expected.high)


def moved(volume: Volume) -> tuple[int, int, float]:
    return volume.bytes_up, volume.bytes_down, volume.cost_percent


def volume(own: Federation) -> Volume:
    ledger: Ledger = own.run().ledger
    cost = cost_percent(ledger.cost(), total_parameters(Run(own).layers), own.local_steps, BASE)
    return Volume(ledger.total_bytes("up"), ledger.total_bytes("down"), cost)


@pytest.mark.selection
@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg(BASE),
        FedAvg(7 * BASE),
        FixedIntervals(BASE, {"0.*": 2, "3.weight": 3}),
        Cyclic(BASE),
        Cyclic(BASE, layers_per_turn=2, rounds_per_turn=2, opening_rounds=2, full_rounds=1),
        FedLAMA(BASE, 1),
        FedLUAR(BASE, 0),
        FedLUAR(BASE, 2, rule="random"),
        FedLUAR(BASE, 2, rule="round-robin"),
        FedLDF(BASE, senders=2),
        FedLP(BASE, keep=0.4),
    ],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, PART, HELD, {"codec": Float16()}], ids=["all", "part", "held", "float16"])
def test_a_schedule_known_beforehand_is_foreseen_exactly(strategy: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    own = federation(strategy, **changes)
    expected = foreseen(own)
    assert limits(expected)[0] == limits(expected)[1] == moved(volume(own))
    assert expected.certainty == "exact"
    assert expected.rounds == own.budget.rounds


@pytest.mark.selection(together=2)
@pytest.mark.parametrize(
    "strategy",
    [
        FedLAMA(BASE, 2),
        FedLAMA(BASE, 4),
        FedLAMA(BASE, 2, cutoff="printed"),
        FedLAMA(BASE, 2, discrepancy_share="all", warm_up_rounds=3),
        FedLAMA(BASE, 2, accelerate=True),
        FedLUAR(BASE, 1),
        FedLUAR(BASE, 2),
        AdaComm(BASE, first_interval=4, adapt_every=4),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("changes", [{}, PART, HELD], ids=["all", "part", "held"])
def test_a_schedule_that_depends_on_training_lies_within_the_bounds(
    strategy: Any,  # noqa: ANN401
    changes: dict[str, Any],
    seed: int,
) -> None:
    own = federation(strategy, seed=seed, **changes)
    expected, actual = foreseen(own), volume(own)
    low, high = limits(expected)
    assert all(least <= real <= most for least, real, most in zip(low, moved(actual), high, strict=True))
    assert low != high
    assert expected.certainty == "depends on training: within bounds"


ABSENT = [
    RandomAbsence(away=0.3, dies=0.2),
    RandomAbsence(away=0.3, lasts=2, rejoin="next-cycle"),
    Trace(absences=(Absence(1, 1, 2), Absence(3, 2, 2, "dies"), Absence(0, 4, 4), Absence(2, 0, 1))),
]


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("availability", ABSENT, ids=["random", "long", "trace"])
@pytest.mark.parametrize("changes", [{}, PART, HELD], ids=["all", "part", "held"])
@pytest.mark.parametrize("strategy", [FedAvg(BASE), FixedIntervals(BASE, {"0.*": 3}), Cyclic(BASE)], ids=str)
def test_absences_are_foreseen_exactly(strategy: Any, changes: dict[str, Any], availability: Any) -> None:  # noqa: ANN401
    own = federation(strategy, availability=availability, **changes)
    expected = foreseen(own)
    assert limits(expected)[0] == limits(expected)[1] == moved(volume(own))
    assert limits(expected) != limits(foreseen(federation(strategy, **changes)))


@pytest.mark.parametrize("availability", ABSENT, ids=["random", "long", "trace"])
@pytest.mark.parametrize("strategy", [FedLAMA(BASE, 2), FedLUAR(BASE, 1)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_absences_stay_within_the_bounds(strategy: Any, availability: Any, seed: int) -> None:  # noqa: ANN401
    own = federation(strategy, availability=availability, seed=seed)
    (low, high), actual = limits(foreseen(own)), moved(volume(own))
    assert all(least <= real <= most for least, real, most in zip(low, actual, high, strict=True))


def test_void_rounds_are_exact_for_a_fixed_schedule_and_unknown_for_others() -> None:
    """Bounds are for runs in which every round counts; a void round keeps the strategy from learning."""
    nobody = Trace(absences=tuple(Absence(client, 2, 2) for client in range(4)), min_replies=0.5)
    own = federation(FedAvg(BASE), availability=nobody)
    assert limits(foreseen(own))[0] == moved(volume(own))
    assert sum(math.isnan(record.loss) for record in own.run().rounds) == 1
    for strategy in (FedLUAR(BASE, 1), FedLAMA(BASE, 2)):
        own = federation(strategy, availability=nobody)
        expected = foreseen(own)
        assert expected.certainty == "depends on training: unknown"
        assert limits(expected)[0] < moved(volume(own)) < limits(expected)[1]


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
def test_every_budget_around_a_cycle(rounds: int) -> None:
    own = federation(FedLAMA(BASE, 3), rounds * BASE, **PART)
    (low, high), actual = limits(foreseen(own)), volume(own)
    assert low[0] <= actual.bytes_up <= high[0]
    assert (low == high) == (rounds <= 4)  # the first cycle is fixed, and the last round closes


@pytest.mark.parametrize("rule", ["score", "random", "round-robin"])
@pytest.mark.parametrize("grouping", ["module", "mapping"])
def test_layers_of_equal_size_but_with_statistics(rule: Any, grouping: str) -> None:  # noqa: ANN401
    """Payload and parameters order the layers differently where statistics are sent with some."""
    groups = {"conv": ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"], "a": ["1.weight", "1.bias"]}
    groups["b"] = ["2.weight", "2.bias"]
    convolution = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Sequential(*convolution), nn.Linear(4, 16), nn.Linear(16, 3))
    layers = by_module(model) if grouping == "module" else by_mapping(model, groups)
    own = federation(FedLUAR(BASE, 1, rule=rule))
    own = Federation(model, own.clients, own.strategy, STEPS, layers=layers)
    (low, high), actual = limits(foreseen(own)), moved(volume(own))
    assert low[0] <= actual[0] <= high[0]
    assert low[2] <= actual[2] <= high[2]


def test_bounds_of_fedlama_are_the_published_ones() -> None:
    """Nothing relaxed costs 100 %; all weight tensors relaxed from the second cycle on is the least."""
    own = federation(FedLAMA(BASE, 2), 8 * BASE)
    low, high = limits(foreseen(own))
    layers = Run(own).layers
    adaptive = sum(layer.parameters for layer in layers if layer.adaptive)
    share = adaptive / total_parameters(layers)
    assert high[2] == 100.0
    assert low[2] == pytest.approx(100 * (1 - share * 3 / 8))


@dataclass(frozen=True)
class LoudestOnly(Strategy[frozenset[str]]):
    """A user's strategy that adapts: after the first round only the layer with the largest update is uploaded."""

    name: ClassVar[str] = "loudest-only"
    base_interval: int

    def init(self, layers: Layers, seed: int) -> frozenset[str]:
        return frozenset(layer.name for layer in layers)

    def plan(self, state: frozenset[str], round_index: int) -> Plan:
        return Plan(round_index, state, dict.fromkeys(NAMES, 1), cycle_start=round_index == 0)

    def fold(self, state: frozenset[str], plan: Plan, statistics: Mapping[str, LayerStatistics]) -> frozenset[str]:
        return frozenset([max(statistics, key=lambda name: statistics[name].update_norm)])


class BoundedLoudest(LoudestOnly):
    """The same with bounds of its own: nothing is known but that the first and the last round upload everything."""

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
        start = self.init(layers, seed)
        return tuple(
            [self.plan(start if index == 0 else later, index) for index in range(rounds)]
            for later in (start, frozenset[str]())
        )


@dataclass(frozen=True)
class EverySecond(Strategy[tuple[str, ...]]):
    """A user's strategy that does not adapt: everything is uploaded in every second round."""

    name: ClassVar[str] = "every-second"
    base_interval: int
    cycle_rounds: ClassVar[int] = 2

    def init(self, layers: Layers, seed: int) -> tuple[str, ...]:
        return tuple(layer.name for layer in layers)

    def plan(self, state: tuple[str, ...], round_index: int) -> Plan:
        upload = frozenset(state) if round_index % 2 else frozenset[str]()
        return Plan(round_index, upload, dict.fromkeys(state, 2), cycle_start=round_index % 2 == 0)


class LateLAMA(FedLAMA):
    """A user's change of FedLAMA: its bounds are not known to hold."""

    def fold(self, state: FedLAMAState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> FedLAMAState:
        return super().fold(state, plan, statistics)


class BiasLAMA(FedLAMA):
    """A user's change of FedLAMA: it selects layers that may not adapt by default."""

    def curves(self, state: FedLAMAState) -> Curves:
        return replace(super().curves(state), chosen=frozenset(state.intervals))


class StickyLUAR(FedLUAR):
    """A user's change of FedLUAR: its bounds are not known to hold."""

    def fold(self, state: FedLUARState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> FedLUARState:
        return super().fold(state, plan, statistics)


class Stranger:
    """A class with every member that a run needs, but without `bounds`: it does not inherit from Strategy."""

    name, base_interval, local_steps, cycle_rounds = "stranger", BASE, BASE, 1
    measures_discrepancy, recycles = False, False

    def init(self, layers: Layers, seed: int) -> None:
        return None

    def plan(self, state: None, round_index: int) -> Plan:
        return Plan(round_index, frozenset(NAMES), dict.fromkeys(NAMES, 1), cycle_start=True)

    def fold(self, state: None, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> None:
        return None


NAMES = tuple(layer.name for layer in Run(federation(FedAvg(BASE))).layers)


@pytest.mark.selection
@pytest.mark.parametrize(
    "strategy",
    [LoudestOnly(BASE), LateLAMA(BASE, 2), BiasLAMA(BASE, 2), StickyLUAR(BASE, 1), Stranger()],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("changes", [{}, PART, {"availability": ABSENT[0]}], ids=["all", "part", "absent"])
def test_a_schedule_without_bounds_is_unknown(strategy: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    """It was once called exact, and the real run moved something else; now the range holds for every strategy."""
    own = federation(strategy, **changes)
    expected, actual = foreseen(own), moved(volume(own))
    assert (expected.certainty, expected.rounds) == ("depends on training: unknown", own.budget.rounds)
    low, high = limits(expected)
    assert all(least < real <= most for least, real, most in zip(low, actual, high, strict=True))
    assert low != high
    assert expected.low.seconds == expected.high.seconds == {}


def test_the_range_of_every_strategy_is_nothing_and_everything() -> None:
    expected = foreseen(federation(LoudestOnly(BASE)))
    everything = limits(foreseen(federation(FedAvg(BASE))))[1]
    assert limits(expected)[1] == everything
    first = everything[1] // 7  # the complete model once, then headers alone
    assert limits(expected)[0] == (7 * 5 * 40, first + 6 * 5 * 40, 0.0)


@pytest.mark.parametrize("changes", [{}, PART, HELD], ids=["all", "part", "held"])
def test_a_users_strategy_that_does_not_adapt_is_exact(changes: dict[str, Any]) -> None:
    own = federation(EverySecond(BASE), **changes)
    expected = foreseen(own)
    assert limits(expected)[0] == limits(expected)[1] == moved(volume(own))
    assert expected.certainty == "exact"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_users_bounds_count(seed: int) -> None:
    own = federation(BoundedLoudest(BASE), seed=seed, **PART)
    low, high = limits(foreseen(own))
    assert all(least < real < most for least, real, most in zip(low, moved(volume(own)), high, strict=True))


def test_each_quantity_has_limits_of_its_own() -> None:
    """The first course sends less up and more down than the second."""
    everything, half, intervals = frozenset(NAMES), frozenset(NAMES[::2]), dict.fromkeys(NAMES, 1)

    class Swapped(LoudestOnly):
        def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
            redrawn = (Plan(index, frozenset(), intervals, True, recycle=everything) for index in range(rounds))
            return (redrawn, (Plan(index, half, intervals, False, frozen=everything - half) for index in range(rounds)))

    class First(Swapped):
        def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
            return (super().bounds(layers, rounds, seed) or ())[:1]

    class Second(Swapped):
        def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
            return (super().bounds(layers, rounds, seed) or ())[1:]

    (first, _), (second, _) = (limits(foreseen(federation(kind(BASE), **PART))) for kind in (First, Second))
    assert first[0] < second[0]
    assert first[1] > second[1]
    low, high = limits(foreseen(federation(Swapped(BASE), **PART)))
    assert low == (first[0], second[1], first[2])
    assert high == (second[0], first[1], second[2])


def test_the_plan_says_that_a_volume_is_unknown() -> None:
    experiment = replace(resolve(read("digits", ["local_steps=12"])), strategy=LoudestOnly(BASE))
    seen = preview(experiment, [PROFILES["fibre"]], price_per_gb=1.0)
    (found,) = (one for one in seen.to_json()["methods"] if one["method"] == "LoudestOnly(2)")  # type: ignore[attr-defined]
    assert found["certainty"] == "depends on training: unknown"
    assert found["low"]["bytes_up"] < found["high"]["bytes_up"]
    assert json.loads(json.dumps(seen.to_json())) == seen.to_json()
    console = Console(width=200, record=True, file=io.StringIO())
    for part in tables.preview(seen):
        console.print(part)
    text = console.export_text()
    rows = [line.split() for line in text.splitlines() if "LoudestOnly(2)" in line]
    assert rows[0] == ["LoudestOnly(2)", "6", "unknown", "unknown", "unknown", "unknown"]
    assert [row[-2:] for row in rows[1:3]] == [["unknown", "unknown"]] * 2
    assert "LoudestOnly(2): depends on training: unknown; at most" in text
    assert "FedAvg(2): " not in text
