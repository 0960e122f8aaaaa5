"""Methods on the command line, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from fedlama import ConfigError, Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals
from fedlama.choices.strategies import Strategy
from fedlama.experiment.methods import parse_methods, split, written


@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg(6),
        FedLAMA(6, 4),
        FedLAMA(4, 2, discrepancy_share="all", warm_up_rounds=3),
        FedLUAR(6, 2, rule="round-robin"),
        Cyclic(6),
        FixedIntervals(6, {"*.bias": 2, "dense0.weight": 3}),
    ],
    ids=written,
)
def test_what_is_written_is_read_back(strategy: Strategy[Any]) -> None:
    assert parse_methods([written(strategy)], "digits", []) == [strategy]


def test_settings_of_the_experiment_stay() -> None:
    assert parse_methods(["fedavg  fedlama", "fedlama,cutoff=printed"], "digits", ["strategy.base_interval=3"]) == [
        FedAvg(3),
        FedLAMA(3, 4),
        FedLAMA(3, 4, cutoff="printed"),
    ]


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_methods(["fedlma fedavg,increase_factor=2", "fedlama,base_interval=0"], "digits", [])
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "method 'fedlma' is not known",
        "method 'fedavg,increase_factor=2': unknown key 'strategy.increase_factor': strategy 'fedavg' has no such key",
        "method 'fedlama,base_interval=0': FedLAMA: base_interval is 0, expected 1 or more",
    ]
    with pytest.raises(ConfigError, match="--methods is empty"):
        parse_methods([" "], "digits", [])


def test_separators_inside_quotes_and_brackets_are_left_alone() -> None:
    assert split('a, b={"x, y" = [1, 2]}, c="d,e"', ",") == ["a", 'b={"x, y" = [1, 2]}', 'c="d,e"']
