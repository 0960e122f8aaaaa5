"""Bad input to the library: one clear sentence each, that says what was given, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fedlama import (
    ClientData,
    ConfigError,
    DataError,
    FedAvg,
    Federation,
    FedLAMA,
    FedlamaError,
    FedLUAR,
    FixedIntervals,
    Layers,
    Plan,
    ReplayedClients,
    Strategy,
    TensorClients,
    TestSet,
    UniformSampler,
    by_tensor,
)
from tests.core.helpers import CLASSES, FEATURES, Normed, assert_same_run, skewed_clients


def federation(**changes: object) -> Federation:
    """A sound federation with some of its settings changed for the worse."""
    return replace(Federation(Normed(), skewed_clients(), FedAvg(2), 4), **changes)


def batches(count: int, label: int = 0, size: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ready batches."""
    return [(torch.ones(size, FEATURES), torch.full((size,), label)) for _ in range(count)]


def data(samples: int = 10, batch_size: int = 5, **changes: object) -> ClientData:
    """One client's tensors."""
    given = {"x": torch.zeros(samples, FEATURES), "y": torch.zeros(samples, dtype=torch.int64)} | changes
    return ClientData(batch_size=batch_size, **given)


# Clients


@pytest.mark.parametrize("clients", [[], ()])
def test_no_clients(clients: list[ClientData]) -> None:
    with pytest.raises(DataError, match="there are no clients; give at least one"):
        federation(clients=clients).run()
    with pytest.raises(DataError, match="there are no clients"):
        ReplayedClients(clients)
    with pytest.raises(DataError, match="there are no clients"):
        TensorClients(torch.zeros(0, 1), torch.zeros(0), clients, 1)


def test_a_client_without_samples() -> None:
    with pytest.raises(DataError, match="client 1 has no samples"):
        federation(clients=[data(), data(0), data()]).run()
    with pytest.raises(DataError, match="client 1 has no samples"):
        federation(clients=[batches(2), []]).run()


def test_fewer_samples_than_a_batch() -> None:
    with pytest.raises(DataError, match="client 2 has 4 samples, fewer than one batch of 5; lower batch_size"):
        federation(clients=[data(), data(), data(4)]).run()


def test_short_clients_by_name() -> None:
    rows = [np.arange(5), np.arange(5, 8)]
    source = TensorClients(torch.randn(8, FEATURES), torch.zeros(8, dtype=torch.int64), rows, 5, short_clients=True)
    assert len(source.batch(1, 0, 0)[0]) == 3
    federation(clients=source).run()


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_size_below_one(batch_size: int) -> None:
    with pytest.raises(DataError, match=f"client 0: batch_size is {batch_size}"):
        federation(clients=[data(batch_size=batch_size)]).run()


def test_inputs_and_targets_of_different_number() -> None:
    with pytest.raises(DataError, match="client 1 has 10 inputs but 9 targets"):
        federation(clients=[data(), data(y=torch.zeros(9, dtype=torch.int64))]).run()
    with pytest.raises(DataError, match="8 inputs but 9 targets"):
        TensorClients(torch.zeros(8, 1), torch.zeros(9), [np.arange(8)], 2)


def test_clients_of_different_shapes() -> None:
    with pytest.raises(DataError, match=r"client 1 has inputs of shape \(7,\).* client 0 .*\(6,\)"):
        federation(clients=[data(), data(x=torch.zeros(10, 7))]).run()


@pytest.mark.parametrize("row", [-1, 8, 100])
def test_rows_that_do_not_exist(row: int) -> None:
    with pytest.raises(DataError, match=f"client 1 names row {row}, but there are 8 rows"):
        TensorClients(torch.zeros(8, 1), torch.zeros(8), [np.arange(4), np.array([4, row, 5])], 2)


def test_one_batch_size_per_client() -> None:
    with pytest.raises(DataError, match="2 clients but 3 batch sizes"):
        TensorClients(torch.zeros(8, 1), torch.zeros(8), [np.arange(4), np.arange(4, 8)], [2, 2, 2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    bad = torch.zeros(10, FEATURES)
    bad[[3, 7], 2] = value
    with pytest.raises(
        DataError, match=r"input row 13 of client 1 holds NaN or infinite values \(2 such rows in all\)"
    ):
        federation(clients=[data(), data(x=bad)]).run()


def test_rows_that_nobody_uses_may_be_anything() -> None:
    x = torch.zeros(6, 1)
    x[5] = float("nan")
    assert len(TensorClients(x, torch.zeros(6), [np.arange(5)], 5)) == 1


@pytest.mark.parametrize("label", [-1, CLASSES, 255])
def test_labels_out_of_range(label: int) -> None:
    wrong = torch.zeros(10, dtype=torch.int64)
    wrong[4] = label
    low, high = min(label, 0), max(label, 0)
    with pytest.raises(DataError, match=f"labels of the clients run from {low} to {high}, but the model has 3 classes"):
        federation(clients=[data(), data(y=wrong)]).run()


def test_labels_out_of_range_in_recorded_batches() -> None:
    with pytest.raises(DataError, match=r"0 to 2.*fix the labels"):
        federation(clients=[batches(4), batches(4, label=CLASSES)]).run()


def test_mixed_forms() -> None:
    with pytest.raises(DataError, match="mix ClientData and iterables of batches"):
        federation(clients=[data(), batches(4)]).run()


# Recorded batches


def test_an_iterator_that_ends_too_soon() -> None:
    with pytest.raises(DataError, match="client 1 has no batch left for local step 3; record more batches"):
        federation(clients=[batches(4), batches(3)]).run()


def test_iterators_need_their_numbers_of_samples() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from batches(1)

    with pytest.raises(ConfigError, match=r"numbers of samples are unknown; give samples=.* or set weighting='equal'"):
        federation(clients=[endless(), endless()]).run()
    federation(clients=[endless(), endless()], weighting="equal").run()
    federation(clients=ReplayedClients([endless(), endless()], samples=[10, 20])).run()


def test_numbers_of_samples_must_fit() -> None:
    with pytest.raises(DataError, match="2 clients but 3 numbers of samples"):
        ReplayedClients([batches(1), batches(1)], samples=[1, 2, 3])
    with pytest.raises(DataError, match="2 clients but 0 numbers of samples"):
        ReplayedClients([batches(1), batches(1)], samples=[])
    with pytest.raises(DataError, match="client 1 has no samples"):
        ReplayedClients([batches(1), batches(1)], samples=[1, 0])


def test_recorded_batches_are_used_up() -> None:
    source = ReplayedClients([batches(8), batches(8)])
    federation(clients=source).run()
    with pytest.raises(DataError, match="step 4 is next, step 0 was requested; make new clients"):
        federation(clients=source).run()
    again = federation(clients=[batches(4), batches(4)])
    assert again.run().rounds[-1].loss == again.run().rounds[-1].loss  # plain lists start again in every run


# The model and the test set


def test_a_model_that_does_not_fit_the_inputs() -> None:
    with pytest.raises(DataError, match=r"the model Normed cannot take inputs of shape \(5,\)"):
        federation(clients=[data(x=torch.zeros(10, 5))]).run()


def test_trying_the_model_leaves_no_trace() -> None:
    class Counting(Normed):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += len(x)
            return super().forward(x)

    result = federation(model=Counting(), clients=[data()]).run()
    assert float(result.model["seen"]) == 20.0


@pytest.mark.parametrize("label", [-2, CLASSES])
def test_labels_of_the_test_set_out_of_range(label: int) -> None:
    test = TestSet(torch.zeros(4, FEATURES), torch.tensor([0, 1, label, 2]))
    with pytest.raises(DataError, match="labels of the test set run from"):
        federation(test_set=test).run()


def test_an_empty_test_set() -> None:
    with pytest.raises(DataError, match="test set has no samples"):
        federation(test_set=TestSet(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64))).run()


def test_a_test_set_that_is_not_finite() -> None:
    with pytest.raises(DataError, match="test set holds NaN"):
        TestSet(torch.full((2, FEATURES), float("nan")), torch.zeros(2, dtype=torch.int64))


def test_a_test_set_of_unequal_parts() -> None:
    with pytest.raises(DataError, match="4 inputs but 3 targets"):
        federation(test_set=TestSet(torch.zeros(4, FEATURES), torch.zeros(3, dtype=torch.int64))).run()


# The choices


def test_more_active_clients_than_clients() -> None:
    with pytest.raises(ConfigError, match="active is 5, but there are only 4 clients"):
        federation(sampler=UniformSampler(5)).run()


@pytest.mark.parametrize(("budget", "advice"), [(1, "choose 2 or 4"), (5, "choose 4 or 6"), (0, "choose 2 or 4")])
def test_a_budget_that_is_no_whole_number_of_rounds(budget: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=f"local_steps is {budget}, but a round of fedavg lasts 2 local.*{advice}"):
        federation(local_steps=budget).run()


@dataclass(frozen=True)
class Unchecked(Strategy[None]):
    """A user's strategy that checks nothing."""

    name: ClassVar[str] = "unchecked"
    base_interval: Any

    def init(self, layers: Layers, seed: int) -> None:
        return None

    def plan(self, state: None, round_index: int) -> Plan:
        return Plan(round_index, frozenset(), {}, cycle_start=True)


@pytest.mark.parametrize(
    ("strategy", "budget", "said"),
    [
        (Unchecked(0), 4, "Unchecked: a round has 0 local steps, expected 1 or more"),
        (Unchecked(1.5), 3, r"Unchecked: local_steps is 1\.5, expected an integer"),
        (Unchecked("2"), 4, "Unchecked: local_steps is '2', expected an integer"),
        (FedAvg(2), 4.0, r"local_steps is 4\.0, expected an integer"),
        (FedAvg(2), True, "local_steps is True, expected an integer"),
    ],
)
def test_a_round_and_a_budget_that_are_not_whole(strategy: Any, budget: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=said):
        federation(strategy=strategy, local_steps=budget).run()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"upload": frozenset({"frist.weight"})},
            "round 0 names 'frist.weight', which is not a layer; did you mean 'first",
        ),
        ({"frozen": frozenset({"zzz"})}, "round 0 names 'zzz', which is not a layer; known are: first.bias"),
        ({"intervals": {"norm.bias": 1}}, "round 0 has no interval for 'first.bias'; give every layer one"),
        ({"interval": 0}, "round 0 has the interval 0 for 'first.weight', expected an integer of 1 or more"),
        ({"interval": 1.5}, r"round 0 has the interval 1\.5 for 'first.weight', expected an integer"),
        ({"recycle": frozenset({"first.bias"})}, "round 0 uploads and recycles 'first.bias'; choose one of both"),
    ],
)
def test_a_plan_that_does_not_fit_the_layers(change: dict[str, Any], said: str) -> None:
    class Wrong(Unchecked):
        """A user's strategy whose plan is wrong in one thing."""

        def plan(self, state: None, round_index: int) -> Plan:
            names = [layer.name for layer in by_tensor(Normed())]
            sound = Plan(round_index, frozenset(names), dict.fromkeys(names, 1), cycle_start=True)
            given = dict(change)
            if "interval" in given:
                given = {"intervals": {**sound.intervals, "first.weight": given["interval"]}}
            return replace(sound, **given)

    with pytest.raises(ConfigError, match=said):
        federation(strategy=Wrong(2)).run()


def test_intervals_of_numpy_are_plain_numbers_in_the_records() -> None:
    class Counted(Unchecked):
        """A user's strategy that computes its intervals with NumPy."""

        def plan(self, state: None, round_index: int) -> Plan:
            names = [layer.name for layer in by_tensor(Normed())]
            return Plan(round_index, frozenset(names), dict.fromkeys(names, np.int64(1)), cycle_start=True)

    record = federation(strategy=Counted(2)).run().rounds[0]
    assert {type(layer.interval) for layer in record.layers.values()} == {int}


def test_numbers_of_numpy_are_settings_too() -> None:
    given = federation(local_steps=np.int64(4), seed=np.int32(3), evaluate_every=np.int64(2))
    assert [type(value) for value in (given.local_steps, given.seed, given.evaluate_every)] == [int] * 3
    assert_same_run(given.run(), federation(local_steps=4, seed=3, evaluate_every=2).run())


@pytest.mark.parametrize("base", [0, -1])
def test_intervals_below_one(base: int) -> None:
    with pytest.raises(ConfigError, match=f"base_interval is {base}, expected 1 or more; use a larger number"):
        FedLAMA(base, 2)
    with pytest.raises(ConfigError, match=f"increase_factor is {base}, expected 1 or more; use a larger number"):
        FedLAMA(6, base)


def test_all_problems_at_once() -> None:
    bad = federation(
        strategy=FixedIntervals(3, {"frist.weight": 2}),
        local_steps=7,
        sampler=UniformSampler(9),
        engine="lop",
        weighting="size",
        evaluate="glob",
        evaluate_every=0,
        layers=by_tensor(nn.Linear(FEATURES, CLASSES)),
        seed=2**70,
    )
    with pytest.raises(ConfigError) as caught:
        bad.run()
    text = str(caught.value)
    for word in (
        "local_steps is 7",
        "did you mean 'loop'",
        "weighting is 'size'",
        "evaluate is 'glob'",
        "evaluate_every is 0",
        "active is 9",
        "'frist.weight' matches no layer",
        "parameter 'first.weight' is in no layer",
        "names a parameter the model lacks: 'weight'",
        "seed is",
    ):
        assert word in text, word
    assert all(problem[-1] not in ".!" for problem in caught.value.problems)


def test_too_many_layers_to_recycle() -> None:
    with pytest.raises(ConfigError, match="only 2 layers of the model may be recycled"):
        federation(strategy=FedLUAR(2, 2)).run()


def test_every_refusal_is_an_error_of_ours() -> None:
    assert issubclass(ConfigError, FedlamaError)
    assert issubclass(DataError, FedlamaError)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("short_clients", r"Federation has no setting 'short_clients'; give it to TensorClients\(..., short_clients="),
        ("local_step", "Federation has no setting 'local_step'; did you mean 'local_steps'"),
    ],
)
def test_an_unknown_setting_is_named(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Federation(Normed(), skewed_clients(), FedAvg(2), 4, **{name: True})
