"""A deployment through a channel equals the loop engine bit for bit, with its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedlama import (
    AllClients,
    Cyclic,
    FedAvg,
    FedLAMA,
    FedLUAR,
    FedProx,
    FixedIntervals,
    Float16,
    ServerAdam,
    ServerMomentum,
    by_module,
    by_tensor,
)
from tests.engines.cases import network
from tests.flower.cases import assert_same_bits, deployed, federation, in_process

CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": FedAvg(2)},
    "fedlama": {},
    "fedlama, phi 3, everyone": {"strategy": FedLAMA(2, 3), "sampler": AllClients()},
    "fedlama, phi 4, ends inside a cycle": {"strategy": FedLAMA(2, 4)},
    "fedlama, accelerated": {"strategy": FedLAMA(2, 2, accelerate=True)},
    "fedluar": {"strategy": FedLUAR(2, 1)},
    "fixed": {"strategy": FixedIntervals(2, {"0.weight": 3, "*": 1})},
    "cyclic": {"strategy": Cyclic(2)},
    "fedprox": {"solver": FedProx(learning_rate=0.05, proximal=0.1)},
    "momentum each round": {"solver": federation().solver.__class__(0.05, momentum=0.9, state_scope="round")},
    "server momentum": {"server_optimizer": ServerMomentum(momentum=0.5)},
    "server adam": {"server_optimizer": ServerAdam()},
    "half precision": {"codec": Float16()},
    "by module": {"layers": by_module(network())},
    "local statistics": {"layers": by_tensor(network(), statistics="local"), "test_set": None},
    "equal weights": {"weighting": "equal"},
}


@pytest.mark.parametrize("name", CASES)
def test_same_bits_as_loop(name: str, tmp_path: Path) -> None:
    given = federation(**CASES[name])
    result = deployed(given, in_process(given, tmp_path)).to_end([])
    assert_same_bits(result, given.run())


def test_sums_alone_give_the_same_run(tmp_path: Path) -> None:
    given = federation(strategy=FedLAMA(2, 3), sampler=AllClients(), local_steps=24)
    result = deployed(given, in_process(given, tmp_path), aggregation="sums").to_end([])
    expected = given.run()
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        for layer, record in theirs.layers.items():
            assert ours.layers[layer].interval == record.interval
            if record.discrepancy is not None:
                assert ours.layers[layer].discrepancy == pytest.approx(record.discrepancy, rel=1e-4, abs=1e-12)
    for name, value in expected.model.items():
        assert torch.equal(result.model[name], value)
    assert result.ledger.transfers == expected.ledger.transfers
