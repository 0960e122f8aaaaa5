"""What the contract promises holds for every engine of the registry, and for a deployment's: each equals loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import fedlama as fl
from fedlama.engines import ENGINES
from fedlama.engines.api import Engine, RoundOrder, RoundReply, Values
from tests.engines.cases import assert_same, clients
from tests.flower.cases import deployed, federation, in_process

AT_HOME = list(ENGINES)
EVERY = [*AT_HOME, "flower"]
STRATEGIES = [
    fl.FedAvg(2),
    fl.FedLAMA(2, 3),
    fl.FedLUAR(2, 1),
    fl.Cyclic(2),
    fl.FixedIntervals(2, {"4.*": 3}),
    fl.Budget(2, share=0.7),
]
AWAY = fl.RandomAbsence(away=0.3, dies=0.2)


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """The distributed engine with a single process, which is all that a test needs to hold it to the contract."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


Start = Callable[..., fl.Run]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a small federation on an engine by name."""

    def started(engine: str, **changes: Any) -> fl.Run:  # noqa: ANN401
        given = federation(**changes)
        if engine == "flower":
            return deployed(given, in_process(given, tmp_path))
        return fl.Run(replace(given, engine=engine))

    return started


class Recording:
    """An engine that keeps what it was asked and what it replied."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rounds: list[tuple[RoundOrder, Values, RoundReply]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.engine, name)

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Run the round; keep a copy of the global values as they were before it."""
        before = {name: value.clone() for name, value in order.values.items()}
        reply = self.engine.run_round(order)
        self.rounds.append((order, before, reply))
        return reply


def recorded(run: fl.Run) -> tuple[Recording, fl.Result]:
    recording = Recording(run.engine)
    run.engine = recording  # type: ignore[assignment]
    return recording, run.to_end([])


def started(name: str, **changes: Any) -> tuple[Engine, Values]:  # noqa: ANN401
    """An engine with clients 0, 2 and 4, and the global values that they started from."""
    setup = federation(**changes).engine_setup()
    values = {
        spec.name: setup.model.state_dict()[spec.name].clone() for layer in setup.layers for spec in layer.tensors
    }
    engine = ENGINES[name](setup)
    engine.start_cohort([0, 2, 4], values)
    return engine, values


@pytest.mark.selection
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("engine", EVERY)
def test_a_run_equals_loops(engine: str, strategy: Any, start: Start) -> None:  # noqa: ANN401
    result, expected = start(engine, strategy=strategy).to_end([]), start("loop", strategy=strategy).to_end([])
    assert_same(result, expected)
    assert result.ledger.transfers == expected.ledger.transfers
    assert [record.score and record.score.accuracy for record in result.rounds] == [
        record.score and record.score.accuracy for record in expected.rounds
    ]


@pytest.mark.selection
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("engine", EVERY)
def test_the_transfers_that_an_engine_returns_are_the_ledger(engine: str, strategy: Any, start: Start) -> None:  # noqa: ANN401
    run = start(engine, strategy=strategy)
    recording, result = recorded(run)
    assert [transfer for _, _, reply in recording.rounds for transfer in reply.transfers] == run.ledger.transfers
    assert [reply.transfers for _, _, reply in recording.rounds] == [record.transfers for record in result.rounds]
    for order, _, reply in recording.rounds:
        for direction, names in (
            ("down", order.lacking),
            ("up", order.plan.upload),
            ("evaluation", order.evaluation),
        ):
            sent = [one for one in reply.transfers if one.direction == direction]
            assert {item.layer for one in sent for item in one.payloads} == names
            assert all(one.clients == order.cohort for one in sent)
            assert len(sent) == (1 if names or direction != "evaluation" else 0)
            assert all(one.scalars == (direction == "up" and order.scalars) for one in sent)


@pytest.mark.parametrize("engine", ["loop", "auto", "stacked", "workers"])
def test_transfers_under_absences_are_those_of_who_was_there(engine: str, start: Start) -> None:
    run = start(engine, availability=AWAY, sampler=fl.AllClients(), local_steps=24)
    recording, result = recorded(run)
    assert [transfer for _, _, reply in recording.rounds for transfer in reply.transfers] == run.ledger.transfers
    for (order, _, reply), record in zip(recording.rounds, result.rounds, strict=True):
        fates = dict(zip(order.cohort, AWAY.fates(order.cohort, order.plan.round_index, 0), strict=True))
        reached = {client for one in reply.transfers if one.direction == "down" for client in one.clients}
        assert reached == {client for client, fate in fates.items() if fate != "away"}
        assert set(record.answered) == {client for client, fate in fates.items() if fate == "answers"}
        assert tuple(reply.losses) == record.answered


@pytest.mark.parametrize("engine", EVERY)
def test_losses_are_those_of_the_cohort_in_its_order(engine: str, start: Start) -> None:
    recording, result = recorded(start(engine))
    for (order, _, reply), record in zip(recording.rounds, result.rounds, strict=True):
        assert tuple(reply.losses) == order.cohort == record.cohort
    assert [order.new_cohort for order, _, _ in recording.rounds] == [True, False, True, False, True, False]


@pytest.mark.parametrize("engine", EVERY)
def test_global_values_are_never_changed_in_place(engine: str, start: Start) -> None:
    recording, _ = recorded(start(engine))
    for order, before, _ in recording.rounds:
        assert order.values.keys() == before.keys()
        assert all(torch.equal(order.values[name], value) for name, value in before.items())


@pytest.mark.parametrize("engine", AT_HOME)
def test_a_new_cohort_starts_from_the_global_model(engine: str) -> None:
    held, values = started(engine)
    for client in (0, 2, 4):
        assert all(torch.equal(held.client_values(client)[name], value) for name, value in values.items())


@pytest.mark.parametrize("engine", AT_HOME)
def test_a_client_s_values_are_a_copy(engine: str) -> None:
    held, values = started(engine)
    for value in held.client_values(2).values():
        value.zero_()
    assert all(torch.equal(held.client_values(2)[name], value) for name, value in values.items())


@pytest.mark.parametrize("engine", AT_HOME)
def test_an_average_is_that_of_the_clients_and_overwrites_nothing(engine: str) -> None:
    setup = federation().engine_setup()
    held, values = started(engine)
    order = RoundOrder(
        plan=fl.FedAvg(2).plan(fl.FedAvg(2).init(setup.layers, 0), 0),
        steps=2,
        cohort=(0, 2, 4),
        new_cohort=False,
        values=values,
        lacking=frozenset(),
    )
    held.run_round(order)
    before = {client: held.client_values(client) for client in order.cohort}
    weights = dict(zip(order.cohort, (0.5, 0.3, 0.2), strict=True))
    for layer in setup.layers:
        average, squares = held.average(layer, list(weights.values())), 0.0
        for spec in layer.tensors:
            mean = sum(weight * before[client][spec.name].double() for client, weight in weights.items())
            exact = mean if spec.dtype.is_floating_point else mean.round()
            torch.testing.assert_close(average.values[spec.name].double(), exact, atol=1e-6, rtol=1e-6)
            if spec.trainable:
                squares += sum(
                    weight * float((before[client][spec.name].double() - mean).square().sum())
                    for client, weight in weights.items()
                )
        assert average.discrepancy == pytest.approx(squares, rel=1e-3)
    for client, model in before.items():
        assert all(torch.equal(held.client_values(client)[name], value) for name, value in model.items())
    held.overwrite(setup.layers[0], values)
    for client, model in before.items():
        now = held.client_values(client)
        set_names = {spec.name for spec in setup.layers[0].tensors}
        assert all(torch.equal(value, (values if name in set_names else model)[name]) for name, value in now.items())


@pytest.mark.parametrize("engine", AT_HOME)
def test_its_state_continues_on_loop(engine: str, start: Start) -> None:
    first, second = start(engine), start("loop")
    before = [first.advance() for _ in range(3)]
    second.load_state_dict(first.state_dict(), before)
    assert_same(second.to_end([], before), start("loop").to_end([]))


@pytest.mark.parametrize("engine", AT_HOME)
def test_a_divergence_names_the_same_client_and_layer(engine: str, start: Start) -> None:
    source = clients(prepare=lambda pixels: pixels.float() / 128 - 1)
    source.x = source.x.float()
    source.x[source.rows[3]] = 1e25  # finite, but client 3's gradients are not
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 5))
    errors = []
    for name in ("loop", engine):
        with pytest.raises(fl.DivergenceError) as caught:
            start(name, clients=source, sampler=fl.AllClients(), model=model).to_end([])
        errors.append((caught.value.round_index, caught.value.client, caught.value.layer, caught.value.detail))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("engine", EVERY)
def test_absences_and_aggregators_need_an_engine_that_holds_its_clients(engine: str, start: Start) -> None:
    holds = type(start(engine).engine).holds_clients
    assert holds == (engine in ("loop", "auto", "stacked", "workers", "recorded"))
    for changes in ({"availability": AWAY}, {"aggregator": fl.Median()}):
        if holds or (engine == "flower" and "aggregator" in changes):  # a deployment shows single models too
            ours, theirs = (start(name, **changes).to_end([]) for name in (engine, "loop"))
            assert ours.ledger.transfers == theirs.ledger.transfers
            for name, value in theirs.model.items():
                torch.testing.assert_close(ours.model[name], value, atol=1e-4, rtol=1e-4)
        else:
            elsewhere = "" if engine == "flower" else "choose engine='loop', 'stacked' or 'workers', or "
            with pytest.raises(fl.ConfigError, match=f"; {elsewhere}leave it out$"):
                start(engine, **changes)
