"""A run that leaves the finite numbers stops, says where, and has delivered every round before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedlama import (
    SGD,
    ClientData,
    DivergenceError,
    FedAvg,
    Federation,
    FedLAMA,
    FixedIntervals,
    ReplayedClients,
    RoundRecord,
    Run,
    ServerMomentum,
    by_module,
)
from fedlama.choices.codecs import Float32
from fedlama.choices.strategies import Strategy
from fedlama.engines.divergence import average_divergence, loss_divergence
from tests.core.helpers import FEATURES, Line, Normed, mlp, product, pushed, skewed_clients


class Collect:
    """A callback that keeps the records."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def on_round(self, record: RoundRecord) -> None:
        """Keep."""
        self.records.append(record)


def stopped(federation: Federation) -> tuple[DivergenceError, list[RoundRecord]]:
    """Run until it stops."""
    seen = Collect()
    with pytest.raises(DivergenceError) as caught:
        federation.run([seen])
    return caught.value, seen.records


def poisoned(round_index: int, client: int) -> ReplayedClients:
    """Three clients with one batch per round; one batch holds a NaN."""
    batches = [[(torch.ones(4, FEATURES), torch.zeros(4, dtype=torch.int64)) for _ in range(8)] for _ in range(3)]
    batches[client][round_index][0][2, 1] = float("nan")
    return ReplayedClients(batches)


@pytest.mark.parametrize("strategy", [FedAvg(1), FedLAMA(1, 4)], ids=lambda strategy: strategy.name)
def test_the_round_the_client_and_a_layer_are_named(strategy: Strategy[Any]) -> None:
    federation = Federation(mlp().float(), poisoned(5, 2), strategy, 8, solver=SGD(0.1))
    error, records = stopped(federation)
    assert (error.round_index, error.client) == (5, 2)
    assert error.layer in {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}
    for word in ("round 5: client 2 diverged in layer", error.layer, "lower the learning rate", "that client's data"):
        assert word in str(error)
    assert [record.round_index for record in records] == [0, 1, 2, 3, 4]


def test_the_rounds_before_are_those_of_a_sound_run() -> None:
    federation = Federation(mlp().float(), poisoned(5, 2), FedAvg(1), 8, solver=SGD(0.1))
    _, records = stopped(federation)
    sound = replace(federation, clients=poisoned(7, 1), local_steps=7).run()
    assert [record.loss for record in records] == [record.loss for record in sound.rounds[:5]]


def test_a_learning_rate_that_is_far_too_large() -> None:
    error, records = stopped(Federation(Normed(), skewed_clients(), FedAvg(2), 40, solver=SGD(1e30)))
    assert error.round_index == len(records) < 20


def test_values_that_overflow_after_the_last_loss_was_taken() -> None:
    # The loss of every step is finite; the step itself leads to infinity, which the average notices.
    federation = Federation(Line(0.0), pushed(-1.0, -1e300), FedAvg(1), 1, solver=SGD(1e300), objective=product)
    error, records = stopped(federation)
    assert (error.round_index, error.client, records) == (0, 1, [])
    assert error.layer == "free"


def test_the_average_may_overflow_though_every_value_is_finite() -> None:
    # Squares of 1e200 do: the discrepancy is infinite.
    federation = Federation(Line(0.0), pushed(-1.0, -3.0), FedAvg(1), 1, solver=SGD(1e200), objective=product)
    error, _ = stopped(federation)
    assert (error.client, error.layer) == (1, "free")
    assert "overflows" in str(error)


def test_a_layer_that_is_not_due_is_noticed_too() -> None:
    # Nothing is averaged for four rounds, but the next loss shows it.
    strategy = FixedIntervals(1, {"*": 4})
    federation = Federation(Line(0.0), pushed(-1.0, -1e300), strategy, 4, solver=SGD(1e300), objective=product)
    error, records = stopped(federation)
    assert (error.round_index, error.client, len(records)) == (1, 1, 1)


def test_a_server_step_that_overflows_does_not_go_unnoticed() -> None:
    federation = Federation(
        Line(0.0),
        pushed(-1.0, -3.0),
        FedAvg(1),
        2,
        solver=SGD(1.0),
        server_optimizer=ServerMomentum(learning_rate=1e308, momentum=0.9),
        objective=product,
    )
    error, records = stopped(federation)
    assert error.layer == "free"
    assert len(records) <= 1


def test_the_ledger_keeps_what_it_had() -> None:
    run = Run(Federation(mlp().float(), poisoned(3, 0), FedAvg(1), 8, solver=SGD(0.1)))
    for _ in range(3):
        run.advance()
    booked = list(run.ledger.transfers)
    with pytest.raises(DivergenceError):
        run.advance()
    assert run.ledger.transfers == booked
    assert {transfer.round_index for transfer in booked} == {0, 1, 2}


def test_large_but_finite_is_no_divergence() -> None:
    clients = [ClientData(1e6 * one.x, one.y, one.batch_size) for one in skewed_clients(2)]
    Federation(Normed(), clients, FedAvg(1), 2, solver=SGD(0.01)).run()


def test_the_first_layer_and_the_first_tensor_that_are_not_finite_are_named() -> None:
    layers = by_module(mlp().float())
    values = {name: value.clone() for name, value in mlp().float().state_dict().items()}
    error = loss_divergence(layers, 3, 7, values, float("nan"))
    assert (error.layer, error.detail) == (layers[-1].name, "the loss is nan")  # every layer is finite
    values["4.weight"][0, 0] = float("inf")
    values["2.bias"][0] = float("nan")
    error = loss_divergence(layers, 3, 7, values, float("nan"))
    assert (error.round_index, error.client, error.layer) == (3, 7, "2")
    assert error.detail == "2.bias is not finite"


def test_of_an_average_the_first_client_that_is_not_finite_is_named_or_the_one_with_the_largest_value() -> None:
    (layer, *_) = by_module(mlp().float())
    models = {client: {n: v.clone() for n, v in mlp().float().state_dict().items()} for client in (4, 6, 9)}
    models[6]["0.weight"][0, 0] = -1e30
    error = average_divergence(layer, 2, models.items(), Float32())
    assert (error.round_index, error.client, error.layer) == (2, 6, "0")
    assert error.detail == "its largest value is 1.0e+30 and the discrepancy overflows"
    models[9]["0.bias"][1] = float("nan")
    error = average_divergence(layer, 2, models.items(), Float32())
    assert (error.client, error.detail) == (9, "0.bias is not finite")
