"""A comparison is fair: the same clients, batches, cohorts and initial model for every method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedlama import Result
from fedlama.analysis.study import baselines
from fedlama.choices.strategies import Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals
from fedlama.experiment import assemble, prepare
from fedlama.experiment.titles import title
from tests.experiment.helpers import experiment

PART = ("sampler.name=uniform", "sampler.active=2")


def results(*overrides: str) -> list[Result]:
    own = experiment(*overrides)
    material = prepare(own)
    before = {name: value.clone() for name, value in material.model.state_dict().items()}
    runs = [assemble(replace(own, strategy=one), material).run() for one in baselines(own.strategy)]
    for name, value in material.model.state_dict().items():
        assert torch.equal(value, before[name])  # no run changes what the next one starts from
    return runs


@pytest.fixture(scope="module", params=[(), PART], ids=["all", "part"])
def compared(request: pytest.FixtureRequest) -> list[Result]:
    return results(*request.param)


def test_first_rounds_are_equal_where_the_interval_is(compared: list[Result]) -> None:
    base, _, own = compared
    assert base.rounds[0].loss == own.rounds[0].loss
    assert base.rounds[0].cohort == own.rounds[0].cohort
    for name, layer in base.rounds[0].layers.items():
        assert own.rounds[0].layers[name].discrepancy == layer.discrepancy


def test_cohorts_are_equal_at_the_start_of_a_cycle(compared: list[Result]) -> None:
    base, long, own = compared
    for index in range(0, len(own.rounds), 2):
        assert own.rounds[index].cohort == own.rounds[index + 1].cohort == base.rounds[index].cohort
    assert long.rounds[0].cohort == own.rounds[0].cohort


def test_the_long_interval_costs_one_part_in_phi() -> None:
    own = experiment("strategy.increase_factor=4", "local_steps=24")
    material = prepare(own)
    base, long = (assemble(replace(own, strategy=one), material).run() for one in baselines(own.strategy)[:2])
    assert long.cost * 4 == base.cost
    assert base.ledger.payload_bytes("up") == 4 * long.ledger.payload_bytes("up")


def test_without_increase_fedlama_is_fedavg_bit_for_bit() -> None:
    base, own = results("strategy.increase_factor=1", *PART)
    assert (base.method, own.method) == ("fedavg", "fedlama")
    assert base.cost == own.cost
    assert base.ledger.transfers == own.ledger.transfers
    assert [record.loss for record in base.rounds] == [record.loss for record in own.rounds]
    assert all(torch.equal(value, own.model[name]) for name, value in base.model.items())
    assert base.score == own.score


@pytest.mark.parametrize(
    ("strategy", "titles"),
    [
        (FedLAMA(6, 4), ["FedAvg(6)", "FedAvg(24)", "FedLAMA(6, 4)"]),
        (FedLAMA(6, 1), ["FedAvg(6)", "FedLAMA(6, 1)"]),
        (FedLAMA(6, 2, accelerate=True), ["FedAvg(6)", "FedLAMA(6, 2, accelerate)"]),
        (FedAvg(6), ["FedAvg(6)"]),
        (FedLUAR(6, 2), ["FedAvg(6)", "FedLUAR(6, 2)"]),
        (Cyclic(6), ["FedAvg(6)", "Cyclic(6)"]),
        (FixedIntervals(5, {"a": 2, "b": 3}), ["FedAvg(5)", "FedAvg(30)", "FixedIntervals(5)"]),
    ],
)
def test_baselines(strategy: Any, titles: list[str]) -> None:  # noqa: ANN401
    assert [title(one) for one in baselines(strategy)] == titles
