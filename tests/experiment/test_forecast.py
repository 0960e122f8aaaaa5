"""The forecast against the ledger of the real run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedlama import (
    ClientData,
    Cyclic,
    FedAvg,
    Federation,
    FedLAMA,
    FedLUAR,
    FixedIntervals,
    Float16,
    Ledger,
    Run,
    UniformSampler,
    by_mapping,
    by_module,
)
from fedlama.analysis.forecast import Forecast, Volume, forecast
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import cost_percent

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
        seed=own.seed,
    )


def moved(volume: Volume) -> tuple[int, int, float]:
    return volume.bytes_up, volume.bytes_down, volume.cost_percent


def volume(own: Federation) -> Volume:
    ledger: Ledger = own.run().ledger
    cost = cost_percent(ledger.cost(), total_parameters(Run(own).layers), own.local_steps, BASE)
    return Volume(ledger.total_bytes("up"), ledger.total_bytes("down"), cost)


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
    ],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, PART, HELD, {"codec": Float16()}], ids=["all", "part", "held", "float16"])
def test_a_schedule_known_beforehand_is_foreseen_exactly(strategy: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    own = federation(strategy, **changes)
    expected = foreseen(own)
    assert moved(expected.low) == moved(expected.high) == moved(volume(own))
    assert expected.rounds == own.rounds


@pytest.mark.parametrize(
    "strategy",
    [
        FedLAMA(BASE, 2),
        FedLAMA(BASE, 4),
        FedLAMA(BASE, 2, cutoff="printed"),
        FedLAMA(BASE, 2, discrepancy_share="all", warm_up_rounds=3),
        FedLAMA(BASE, 2, accelerate=True),
        FedLUAR(BASE, 1),
        FedLUAR(BASE, 2, rule="random"),
        FedLUAR(BASE, 2, rule="round-robin"),
    ],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, PART, HELD], ids=["all", "part", "held"])
def test_a_schedule_that_depends_on_training_lies_within_the_bounds(
    strategy: Any,  # noqa: ANN401
    changes: dict[str, Any],
) -> None:
    own = federation(strategy, **changes)
    expected, actual = foreseen(own), volume(own)
    low, high = expected.low, expected.high
    assert low.bytes_up <= actual.bytes_up <= high.bytes_up
    assert low.bytes_down <= actual.bytes_down <= high.bytes_down
    assert low.cost_percent <= actual.cost_percent <= high.cost_percent
    assert moved(low) != moved(high)


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
def test_every_budget_around_a_cycle(rounds: int) -> None:
    own = federation(FedLAMA(BASE, 3), rounds * BASE, **PART)
    expected, actual = foreseen(own), volume(own)
    assert expected.low.bytes_up <= actual.bytes_up <= expected.high.bytes_up
    assert (moved(expected.low) == moved(expected.high)) == (
        rounds <= 4
    )  # the first cycle is fixed, and the last round closes


@pytest.mark.parametrize("rule", ["score", "random", "round-robin"])
@pytest.mark.parametrize("grouping", ["module", "mapping"])
def test_layers_of_equal_size_but_with_statistics(rule: Any, grouping: str) -> None:  # noqa: ANN401
    """Payload and parameters order the layers differently where statistics travel with some."""
    groups = {"conv": ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"], "a": ["1.weight", "1.bias"]}
    groups["b"] = ["2.weight", "2.bias"]
    convolution = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(nn.Sequential(*convolution), nn.Linear(4, 16), nn.Linear(16, 3))
    layers = by_module(model) if grouping == "module" else by_mapping(model, groups)
    own = federation(FedLUAR(BASE, 1, rule=rule))
    own = Federation(model, own.clients, own.strategy, STEPS, layers=layers)
    expected, actual = foreseen(own), volume(own)
    assert expected.low.bytes_up <= actual.bytes_up <= expected.high.bytes_up
    assert expected.low.cost_percent <= actual.cost_percent <= expected.high.cost_percent


def test_bounds_of_fedlama_are_the_published_ones() -> None:
    """Nothing relaxed costs 100 %; all weight tensors relaxed from the second cycle on is the least."""
    own = federation(FedLAMA(BASE, 2), 8 * BASE)
    expected = foreseen(own)
    layers = Run(own).layers
    adaptive = sum(layer.parameters for layer in layers if layer.adaptive)
    share = adaptive / total_parameters(layers)
    assert expected.high.cost_percent == 100.0
    assert expected.low.cost_percent == pytest.approx(100 * (1 - share * 3 / 8))
