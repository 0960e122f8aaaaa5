"""Hyper-parameters that do not make sense are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from fedlama import ConfigError, Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals, Layers
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
