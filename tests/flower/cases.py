"""Small federations, run by the loop engine and by a deployment inside one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedlama import Federation, Result, Run
from fedlama.choices.samplers import UniformSampler
from fedlama.choices.solvers import SGD
from fedlama.choices.strategies import FedLAMA
from fedlama.data.sources import as_source
from fedlama.federation.held_out import TestSet
from fedlama.flower import Flower, RoundPolicy
from tests.engines.cases import clients, network
from tests.flower.in_process import Fault, InProcessChannel, no_fault

QUICK = RoundPolicy(deadline=60.0, join=1.0, poll=0.01, min_replies=1.0)


def federation(**changes: Any) -> Federation:  # noqa: ANN401
    """Convolution, BatchNorm and dense layers on five clients of which three take part."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (20, 2, 6, 6), generator=draw, dtype=torch.uint8)
    test_set = TestSet(x, torch.randint(0, 5, (20,), generator=draw), lambda pixels: pixels.float() / 128 - 1)
    settings: dict[str, Any] = {
        "model": network(),
        "clients": clients(),
        "strategy": FedLAMA(base_interval=2, increase_factor=2),
        "local_steps": 12,
        "solver": SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.01),
        "sampler": UniformSampler(3),
        "test_set": test_set,
        "evaluate_every": 2,
    }
    return Federation(**(settings | changes))


def in_process(given: Federation, folder: Path, fault: Fault = no_fault) -> InProcessChannel:
    """A channel to nodes of a federation."""
    return InProcessChannel(given.engine_setup, len(as_source(given.clients)), folder, fault)


def deployed(given: Federation, channel: InProcessChannel, policy: RoundPolicy = QUICK, **options: Any) -> Run:  # noqa: ANN401
    """The same federation through a channel."""
    return Run(replace(given, engine=Flower(channel, policy, **options)))


def assert_same_bits(result: Result, expected: Result) -> None:
    """The same models, losses, intervals, scores and ledger, bit for bit and byte for byte."""
    assert list(result.model) == list(expected.model)
    for name, value in expected.model.items():
        assert torch.equal(result.model[name], value), name
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        assert (ours.cohort, ours.loss, ours.score) == (theirs.cohort, theirs.loss, theirs.score)
        assert ours.layers == theirs.layers
    assert result.ledger.transfers == expected.ledger.transfers
    assert result.cost == expected.cost
