"""Hyper-parameters that do not make sense are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fedlama import (
    SGD,
    ClientData,
    ConfigError,
    Cyclic,
    DataError,
    FedAvg,
    Federation,
    FedLAMA,
    FedLUAR,
    FixedIntervals,
    Layers,
    UniformSampler,
)
from fedlama.choices.strategies import Plan, Strategy


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: FedLAMA(2.5, 2), "base_interval is 2.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: FedLAMA(6, True), "increase_factor is True, expected an integer"),
        (lambda: FedAvg(1.5), "base_interval is 1.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: FedLUAR(3, 1.5), "recycled_layers is 1.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: Cyclic(3, full_rounds=0.5), "full_rounds is 0.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: Cyclic(3, full_rounds=-1), "full_rounds is -1, expected 0 or more; use a larger number"),
        (lambda: FixedIntervals(0.5), "base_interval is 0.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: FedLAMA(6, 2, cutoff="printed", accelerate=True), "accelerate has a cut-off of its own"),
        (lambda: FedLAMA(6, 2, discrepancy_share="all", accelerate=True), "accelerate has a cut-off of its own"),
        (lambda: FedLAMA(7, 2, accelerate=True), "which leaves a remainder; choose a multiple"),
    ],
)
def test_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build()


@pytest.mark.parametrize(
    ("numpy", "plain"),
    [
        (lambda: FedAvg(np.int64(3)), FedAvg(3)),
        (lambda: FedLAMA(np.int32(3), np.int8(2), accelerate=np.False_), FedLAMA(3, 2)),
        (lambda: FedLUAR(np.uint8(3), np.int64(1)), FedLUAR(3, 1)),
        (lambda: Cyclic(np.int64(3), full_rounds=np.int64(0)), Cyclic(3)),
        (lambda: FixedIntervals(np.int64(3), {"a": np.int64(2)}), FixedIntervals(3, {"a": 2})),
    ],
)
def test_numbers_of_numpy_become_plain_ones(numpy: Callable[[], object], plain: object) -> None:
    """So that both are one strategy, in comparisons as in files."""
    assert repr(numpy()) == repr(plain)
    assert numpy() == plain


@pytest.mark.parametrize("build", [lambda: FedAvg(np.float64(3.0)), lambda: FedAvg(np.True_)])
def test_other_numbers_of_numpy_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"base_interval is (3.0|True), expected an integer"):
        build()


def test_a_new_strategy_needs_only_two_methods() -> None:
    @dataclass(frozen=True)
    class Mine(Strategy[None]):
        name: ClassVar[str] = "mine"
        base_interval: int

        def init(self, layers: Layers, seed: int) -> None:
            return None

        def plan(self, state: None, round_index: int) -> Plan:
            return Plan(round_index, frozenset(), {}, cycle_start=True)

    mine = Mine(5)
    assert (mine.local_steps, mine.cycle_rounds, mine.measures_discrepancy, mine.recycles) == (5, 1, False, False)
    assert mine.fold("state", mine.plan(None, 0), {}) == "state"  # type: ignore[arg-type]


def test_a_strategy_without_its_methods_cannot_be_made() -> None:
    @dataclass(frozen=True)
    class Unfinished(Strategy[None]):
        name: ClassVar[str] = "unfinished"
        base_interval: int

    with pytest.raises(TypeError, match=r"abstract methods? '?init"):
        Unfinished(5)  # type: ignore[abstract]


@dataclass(frozen=True)
class _Alternating(Strategy[None]):
    """Uploads one of two layers in turn, so that one of them is always out of sync."""

    base_interval: int = 2
    cycle_rounds: ClassVar[int] = 2

    def init(self, layers: Layers, seed: int) -> None:
        return None

    def plan(self, state: None, round_index: int) -> Plan:
        names = ["weight", "bias"]
        due = frozenset([names[round_index % 2]])
        return Plan(round_index, due, dict.fromkeys(names, 2), cycle_start=round_index % 2 == 0)


@dataclass(frozen=True)
class _NamedAlternating(_Alternating):
    name: ClassVar[str] = "alternating"


def _federation(strategy: Strategy[None], **settings: object) -> Federation:
    draw = torch.Generator().manual_seed(0)
    clients = [ClientData(torch.randn(6, 3, generator=draw), torch.arange(6) % 2, 3) for _ in range(4)]
    return Federation(nn.Linear(3, 2), clients, strategy=strategy, solver=SGD(0.1), rounds=4, **settings)  # type: ignore[arg-type]


def test_a_strategy_without_a_name_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="strategy is a _Alternating without a name; give the class a string"):
        _federation(_Alternating()).run()


def test_a_cycle_that_ends_out_of_sync_is_refused_when_new_clients_are_drawn() -> None:
    assert len(_federation(_NamedAlternating()).run().rounds) == 4
    with pytest.raises(ConfigError, match="round 2 begins a cycle and draws new clients, but the strategy left weight"):
        _federation(_NamedAlternating(), sampler=UniformSampler(2)).run()


def test_the_remedy_for_a_strategy_that_is_never_in_sync_names_its_own_settings() -> None:
    class Never(_NamedAlternating):
        in_sync_at_cycles = False  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="let all clients take part, or choose another strategy"):
        _federation(Never(), sampler=UniformSampler(2)).run()


def test_inputs_of_another_float_type_than_the_model_are_named() -> None:
    clients = [ClientData(np.zeros((6, 3)), np.arange(6) % 2, 3)]
    with pytest.raises(DataError, match=r"the inputs are float64 and the model's parameters float32: convert one"):
        Federation(nn.Linear(3, 2), clients, strategy=FedAvg(2), solver=SGD(0.1), rounds=1).run()
