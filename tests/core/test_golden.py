"""The recorded run of the authors' own program, replayed through the library with the authors' switches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fedlama import SGD, Federation, FedLAMA, ReplayedClients, RoundRecord, Run
from tests.core.helpers import dense, variables
from tests.golden.load import Golden, load_golden


@dataclass
class Replay:
    """The finished run, its rounds, and after each round the intervals and the unit discrepancies."""

    run: Run
    rounds: list[RoundRecord] = field(default_factory=list)
    intervals: list[list[int]] = field(default_factory=list)
    d: list[list[float]] = field(default_factory=list)


@pytest.fixture(scope="module")
def golden() -> Golden:
    """The recording."""
    return load_golden()


@pytest.fixture(scope="module")
def replay(golden: Golden) -> Replay:
    """The recorded batches and initial weights under the authors' switches."""
    batches = [
        [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(inputs, labels, strict=True)]
        for inputs, labels in zip(golden.x, golden.y, strict=True)
    ]
    federation = Federation(
        dense(golden.initial),
        ReplayedClients(batches),
        FedLAMA(golden.steps, golden.phi, discrepancy_share="all", warm_up_rounds=6),
        local_steps=golden.rounds * golden.steps,
        solver=SGD(golden.learning_rate, momentum=golden.momentum, velocity="step", state_scope="slot"),
        weighting="equal",
        keep_client_models=True,
    )
    replay = Replay(Run(federation))
    while replay.run.round_index < federation.rounds:
        replay.rounds.append(replay.run.advance())
        replay.intervals.append(list(replay.run.state.intervals.values()))
        replay.d.append(list(replay.run.state.unit_discrepancy.values()))
    return replay


def test_discrepancies(golden: Golden, replay: Replay) -> None:
    np.testing.assert_allclose(replay.d, golden.d, rtol=1e-3)


def test_intervals(golden: Golden, replay: Replay) -> None:
    assert replay.intervals == golden.intervals.tolist()
    assert golden.intervals.max() == golden.phi


def test_weights(golden: Golden, replay: Replay) -> None:
    for record in replay.rounds:
        for worker in range(golden.workers):
            ours = variables(record.client_models[worker])
            for value, recorded in zip(ours, golden.model(record.round_index, worker), strict=True):
                np.testing.assert_allclose(value, recorded, rtol=0, atol=1e-4)


def test_losses(golden: Golden, replay: Replay) -> None:
    np.testing.assert_allclose([record.loss for record in replay.rounds], golden.losses.mean(axis=1), rtol=1e-4)


def test_synchronisations(golden: Golden, replay: Replay) -> None:
    run = replay.run
    counts = run.ledger.synchronisations()
    assert [counts[layer.name] for layer in run.layers] == golden.num_comms.tolist() == [20, 20, 14, 20, 14, 20, 20, 20]
    assert run.ledger.cost() == 1645 * 20 - (768 + 576) * 6
