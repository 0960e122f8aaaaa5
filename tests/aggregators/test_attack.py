"""The attack simulation: what a robust aggregator gains shows after a few rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.poisoned import AGGREGATORS, accuracy, noise, turned, with_false_labels

from fedlama.data.clients import TensorClients
from fedlama.experiment import assemble, prepare, read, resolve

ATTACKERS = frozenset({4, 9, 10, 13, 27, 30})


def test_attacks_do_what_they_say() -> None:
    start, value, draw = torch.zeros(400), torch.full((400,), 0.5), torch.Generator().manual_seed(0)
    assert torch.equal(turned(value, start, draw), torch.full((400,), -5.0))
    assert noise(value, start, draw).std() == pytest.approx(5.0, rel=0.1)


def test_false_labels_touch_the_attackers_alone() -> None:
    x, y = torch.zeros(4, 1), torch.tensor([0, 1, 2, 9])
    clients = TensorClients(x, y, [np.array([0, 1]), np.array([2, 3])], 1)
    assert with_false_labels(clients, frozenset({1})).y.tolist() == [0, 1, 7, 0]


@pytest.mark.filterwarnings("ignore::fedlama.federation.explosion.ExplodedLossWarning")  # the mean's loss explodes
def test_robust_aggregators_keep_a_model_that_an_attack_destroys() -> None:
    torch.set_num_threads(1)
    experiment = resolve(read("digits", ["local_steps=24"]))
    federation = assemble(experiment, prepare(experiment))
    found = {
        name: accuracy(federation, aggregator, "turned x10", ATTACKERS) for name, aggregator in AGGREGATORS.items()
    }
    assert found["mean"] == "diverged" or float(found["mean"]) < 30
    assert all(float(found[name]) > 60 for name in ("norm-bound, refuse", "trimmed-mean"))
