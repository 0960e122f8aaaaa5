"""The recorded run of the authors' own program, replayed through the library with the authors' switches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlama import SGD, Federation, FedLAMA, ReplayedClients, RoundRecord, Run
from tests.core.helpers import dense, play, variables
from tests.golden.load import Golden, load_golden


@pytest.fixture(scope="module")
def golden() -> Golden:
    """The recording."""
    return load_golden()


@pytest.fixture(scope="module")
def replay(golden: Golden) -> tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]:
    """The finished run, its rounds, and after each round the intervals and the unit discrepancies."""
    batches = [
        [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(inputs, labels, strict=True)]
        for inputs, labels in zip(golden.x, golden.y, strict=True)
    ]
    federation = Federation(
        dense(golden.initial),
        ReplayedClients(batches),
        FedLAMA(golden.steps, golden.phi, discrepancy_share="all", warm_up_rounds=6),
        local_steps=golden.rounds * golden.steps,
        solver=SGD(golden.learning_rate, momentum=golden.momentum, velocity="step", memory_scope="slot"),
        weighting="equal",
        keep_client_models=True,
    )
    rounds: list[RoundRecord] = []
    intervals: list[list[int]] = []
    d: list[list[float]] = []

    def collect(run: Run, record: RoundRecord) -> None:
        rounds.append(record)
        intervals.append(list(run.state.intervals.values()))
        d.append(list(run.state.unit_discrepancy.values()))

    return play(federation, collect), rounds, intervals, d


def test_discrepancies(golden: Golden, replay: tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]) -> None:
    np.testing.assert_allclose(replay[3], golden.d, rtol=1e-3)


def test_intervals(golden: Golden, replay: tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]) -> None:
    assert replay[2] == golden.intervals.tolist()
    assert golden.intervals.max() == golden.phi


def test_weights(golden: Golden, replay: tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]) -> None:
    for record in replay[1]:
        for worker in range(golden.workers):
            ours = variables(record.client_models[worker])
            for value, recorded in zip(ours, golden.model(record.round_index, worker), strict=True):
                np.testing.assert_allclose(value, recorded, rtol=0, atol=1e-4)


def test_losses(golden: Golden, replay: tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]) -> None:
    np.testing.assert_allclose([record.loss for record in replay[1]], golden.losses.mean(axis=1), rtol=1e-4)


def test_synchronisations(
    golden: Golden, replay: tuple[Run, list[RoundRecord], list[list[int]], list[list[float]]]
) -> None:
    run = replay[0]
    counts = run.ledger.synchronisations()
    assert [counts[layer.name] for layer in run.layers] == golden.num_comms.tolist() == [20, 20, 14, 20, 14, 20, 20, 20]
    assert run.ledger.cost() == 1645 * 20 - (768 + 576) * 6
