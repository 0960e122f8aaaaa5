"""The restatement, set to the authors' rules, walks the path that their program walked."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.load import Golden, load_golden
from tests.reference.authors import authors_federation, authors_rules
from tests.reference.federation import Trace
from tests.reference.numpy_fedlama import train_fedlama


@pytest.fixture(scope="module")
def golden() -> Golden:
    """The recording."""
    return load_golden()


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def replay(golden: Golden, request: pytest.FixtureRequest) -> Trace:
    """The restatement's run on the recorded problem."""
    return train_fedlama(authors_federation(golden, request.param), authors_rules(golden))


def test_recording_is_complete(golden: Golden) -> None:
    """Shapes, and the flattened weights come apart into the variables."""
    assert (golden.rounds, golden.workers, golden.steps, golden.phi) == (20, 4, 3, 2)
    assert golden.x.shape == (4, 60, 8, 10)
    assert golden.weights.shape == (20, 4, sum(variable.size for variable in golden.initial))
    assert [v.shape for v in golden.model(19, 3)] == [v.shape for v in golden.initial]


def test_weights(golden: Golden, replay: Trace) -> None:
    """Every variable of every worker after every round."""
    for index, record in enumerate(replay.rounds):
        for worker, model in enumerate(record.clients):
            for ours, theirs in zip(model, golden.model(index, worker), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


def test_discrepancies(golden: Golden, replay: Trace) -> None:
    """Equation 2 in every round."""
    np.testing.assert_allclose([record.d for record in replay.rounds], golden.d, rtol=1e-5)


def test_intervals_and_counts(golden: Golden, replay: Trace) -> None:
    """Exactly, and some layer was relaxed, so that this says something."""
    assert [record.adjusted for record in replay.rounds] == golden.intervals.tolist()
    assert replay.counts == golden.num_comms.tolist() == [20, 20, 14, 20, 14, 20, 20, 20]


def test_losses(golden: Golden, replay: Trace) -> None:
    """The mean cross-entropy of each worker's steps in each round."""
    np.testing.assert_allclose([record.losses for record in replay.rounds], golden.losses, rtol=1e-5)


def test_cost(golden: Golden, replay: Trace) -> None:
    """C of eq. 9: two kernels of 768 and 576 parameters were synchronised 14 times instead of 20."""
    assert replay.cost == 1645 * 20 - (768 + 576) * 6
    assert replay.relative_cost(golden.rounds) == pytest.approx(24836 / 32900)
