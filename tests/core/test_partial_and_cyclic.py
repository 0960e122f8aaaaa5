"""Schedules of parts of a model: FedPart's published one, and partial model averaging."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fedlama as fl
from tests.core.helpers import skewed_clients


def labels(*sizes: int) -> fl.Layers:
    return tuple(
        fl.Layer(f"l{i}", (fl.TensorSpec(f"l{i}", (size,), torch.float32, trainable=True),), adaptive=True)
        for i, size in enumerate(sizes)
    )


def test_the_published_schedule_of_fedpart() -> None:
    # ResNet-8: rounds 0-4 everything; 5, 6 group 0; ...; 23, 24 group 9; 25-29 everything; 125 rounds in all.
    fedpart = fl.Cyclic(8, rounds_per_turn=2, opening_rounds=5, full_rounds=5, others="with-weights")
    layers = labels(*[1] * 10)
    state = fedpart.init(layers, seed=0)
    everything = frozenset(layer.name for layer in layers)
    for start in range(0, 125, 25):
        for index in range(start, start + 25):
            plan, turn = fedpart.plan(state, index), (index - start - 5) // 2
            expected = everything if index - start < 5 else {f"l{turn}"}
            assert (plan.upload, plan.frozen) == (expected, everything - expected), index


def test_a_convolution_takes_its_normalisation_along() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    state = fl.Cyclic(1, others="with-weights").init(fl.by_tensor(model), seed=0)
    assert state.always == frozenset()
    first = {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}
    assert state.turns == (first, {"3.weight", "3.bias"})


def test_orders_of_turns() -> None:
    def turns(order: str, seed: int = 0) -> list[str]:
        cyclic = fl.Cyclic(1, opening_rounds=0, order=order)  # type: ignore[arg-type]
        state = cyclic.init(labels(1, 1, 1, 1), seed)
        return [next(iter(cyclic.plan(state, index).upload)) for index in range(8)]

    assert turns("forward") == ["l0", "l1", "l2", "l3"] * 2
    assert turns("backward") == ["l3", "l2", "l1", "l0"] * 2
    drawn = turns("random")
    assert sorted(drawn[:4]) == sorted(drawn[4:]) == ["l0", "l1", "l2", "l3"]
    assert drawn != turns("random", seed=1)


def test_parts_are_neighbours_of_about_the_same_size() -> None:
    state = fl.PartialAveraging(1, parts=3).init(labels(10, 10, 5, 5, 20, 10), seed=0)
    assert state == {"l0": 0, "l1": 0, "l2": 1, "l3": 1, "l4": 1, "l5": 2}
    assert set(fl.PartialAveraging(1, parts=3).init(labels(100, 1, 1), seed=0).values()) == {0, 1, 2}


def test_every_layer_is_synchronised_once_in_a_cycle_and_knows_how_long_it_trained() -> None:
    partial = fl.PartialAveraging(1, parts=3)
    state = partial.init(labels(1, 1, 1), seed=0)
    apart = [
        {name: plan.rounds_apart(name) for name in plan.upload} for plan in (partial.plan(state, i) for i in range(6))
    ]
    assert apart == [{"l0": 1}, {"l1": 2}, {"l2": 3}, {"l0": 3}, {"l1": 3}, {"l2": 3}]


def test_the_traffic_is_even_and_as_large_as_that_of_periodic_averaging() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(6)))
    result = fl.Federation(model, skewed_clients(3), fl.PartialAveraging(1, parts=3), 7).run()
    up = [sum(t.payload_bytes for t in record.transfers if t.direction == "up") for record in result.rounds]
    assert up[:-1] == [3 * 2 * 36 * 4] * 6  # three clients, two of six layers; the last round brings all into sync
    periodic = fl.Federation(model, skewed_clients(3), fl.FixedIntervals(1, {"*": 3}), 6).run()
    assert sum(up[:-1]) == periodic.ledger.payload_bytes("up")


def test_one_part_is_fedavg() -> None:
    partial, fedavg = fl.PartialAveraging(2, parts=1), fl.FedAvg(2)
    layers = labels(3, 4)
    for index in range(4):
        ours, theirs = partial.plan(partial.init(layers, 0), index), fedavg.plan(fedavg.init(layers, 0), index)
        assert (ours.upload, ours.cycle_start) == (theirs.upload, theirs.cycle_start)


def test_what_needs_layers_in_sync_is_refused() -> None:
    with pytest.raises(fl.ConfigError, match="partial never has all layers in sync"):
        fl.Federation(
            nn.Linear(3, 2), skewed_clients(3), fl.PartialAveraging(1, parts=2), 4, sampler=fl.UniformSampler(2)
        ).run()
    with pytest.raises(fl.ConfigError, match="parts is 4, but there are only 2 layers; choose 2 or fewer"):
        fl.PartialAveraging(1).init(labels(1, 1), seed=0)
