"""FedAvg is FedLAMA with phi = 1, bit for bit, and other ways to write FedAvg agree as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedlama import SGD, FedAvg, Federation, FedLAMA, FedLUAR, FixedIntervals, Result, TestSet, UniformSampler
from fedlama.choices.samplers import Sampler
from fedlama.choices.strategies import Strategy
from tests.core.helpers import CLASSES, FEATURES, Normed, assert_same_run, skewed_clients


def outcome(strategy: Strategy[Any], sampler: Sampler | None = None, **changes: object) -> Result:
    """Train a network with BatchNorm on four skewed clients."""
    generator = torch.Generator().manual_seed(9)
    test = TestSet(torch.randn(40, FEATURES, generator=generator), torch.randint(CLASSES, (40,), generator=generator))
    federation = Federation(
        Normed(),
        skewed_clients(),
        strategy,
        local_steps=24,
        solver=SGD(0.1, momentum=0.9, weight_decay=1e-3, warm_up_steps=4, decay_at=(14,)),
        test_set=test,
        seed=3,
        keep_client_models=True,
        **({"sampler": sampler} if sampler else {}),
        **changes,
    )
    return federation.run()


@pytest.mark.parametrize("sampler", [None, UniformSampler(2), UniformSampler(3, hold_rounds=4)])
@pytest.mark.parametrize("weighting", ["samples", "equal"])
def test_fedlama_with_phi_one_is_fedavg(sampler: Sampler | None, weighting: str) -> None:
    fedavg = outcome(FedAvg(2), sampler, weighting=weighting)
    fedlama = outcome(FedLAMA(2, 1), sampler, weighting=weighting)
    assert_same_run(fedavg, fedlama)
    assert [record.score for record in fedavg.rounds] == [record.score for record in fedlama.rounds]
    for mine, theirs in zip(fedavg.rounds, fedlama.rounds, strict=True):
        assert mine.layers == theirs.layers  # discrepancies and bytes of every layer
    # No decision, so no scalars: the transfers are the same to the byte.
    assert fedavg.ledger.transfers == fedlama.ledger.transfers
    assert fedavg.cost_percent == fedlama.cost_percent == 100.0


@pytest.mark.parametrize("switches", [{"warm_up_rounds": 3}, {"cutoff": "printed"}, {"discrepancy_share": "all"}])
def test_the_switches_do_nothing_at_phi_one(switches: dict[str, Any]) -> None:
    assert_same_run(outcome(FedAvg(3)), outcome(FedLAMA(3, 1, **switches)))


def test_acceleration_by_one_is_fedavg() -> None:
    assert_same_run(outcome(FedAvg(3)), outcome(FedLAMA(3, 1, accelerate=True)))


def test_before_its_first_adjustment_fedlama_is_fedavg() -> None:
    fedavg, fedlama = outcome(FedAvg(2)), outcome(FedLAMA(2, 4, warm_up_rounds=12))
    assert_same_run(fedavg, fedlama)
    assert fedlama.ledger.payload_bytes("up") == fedavg.ledger.payload_bytes("up")
    assert fedlama.ledger.total_bytes("up") > fedavg.ledger.total_bytes("up")  # the scalars


def test_an_empty_table_and_recycling_nothing_are_fedavg() -> None:
    sampler = UniformSampler(2)
    fedavg = outcome(FedAvg(2), sampler)
    for other in (outcome(FixedIntervals(2), sampler), outcome(FedLUAR(2, 0), sampler)):
        assert_same_run(fedavg, other)
        assert fedavg.ledger.transfers == other.ledger.transfers


def test_relaxing_does_change_the_run() -> None:
    # The check of this file's check: the comparison above can fail.
    with pytest.raises(AssertionError):
        assert_same_run(outcome(FedAvg(2)), outcome(FedLAMA(2, 2)))


def test_long_rounds_are_a_table_of_equal_intervals() -> None:
    long = outcome(FedAvg(4), evaluate_every=4).rounds
    table = outcome(FixedIntervals(2, {"*": 2}), evaluate_every=4).rounds[1::2]
    for mine, theirs in zip(long, table, strict=True):
        assert mine.score == theirs.score
        assert {name: layer.discrepancy for name, layer in mine.layers.items()} == {
            name: layer.discrepancy for name, layer in theirs.layers.items()
        }
