"""Rounds in which not everyone answers: the same in simulation as in a deployment, on every engine, and resumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import fedlama as fl
from fedlama.choices.availability import Fate
from fedlama.engines.loop import LoopEngine
from fedlama.flower.protocol import TrainRequest
from fedlama.flower.server.engine import FlowerEngine
from tests.engines.cases import assert_same, clients
from tests.flower.cases import QUICK, assert_same_bits, deployed, federation, in_process

AWAY = (fl.Absence(1, 1, 2), fl.Absence(3, 2, 2), fl.Absence(0, 4, 4), fl.Absence(2, 0, 1))
DYING = (fl.Absence(1, 2, 2, "dies"), fl.Absence(4, 0, 0, "dies"), fl.Absence(0, 3, 3))
RANDOM = fl.RandomAbsence(away=0.3, dies=0.2)
STRATEGIES = [
    *(fl.FedAvg(2), fl.FedLAMA(2, 3), fl.FedLUAR(2, 1), fl.Cyclic(2), fl.FixedIntervals(2, {"4.*": 3})),
    *(fl.FedLDF(2, senders=2), fl.FedLP(2, keep=0.4), fl.AdaComm(2, first_interval=2, adapt_every=3)),
]


def everyone(**changes: Any) -> fl.Federation:  # noqa: ANN401
    return federation(**({"strategy": fl.FedLAMA(2, 3), "sampler": fl.AllClients()} | changes))


def in_deployment(given: fl.Federation, trace: fl.Trace, folder: Path) -> fl.Result:
    """Run the same federation through the deployment's channel, with nodes that go, come back and fail."""

    def fault(request: TrainRequest) -> str | None:
        return "raise" if trace.fates([request.client], request.round_index, 0) == ["dies"] else None

    channel = in_process(replace(given, availability=fl.Always()), folder, fault)
    nodes = dict(channel.online)
    policy = replace(QUICK, deadline=0.05, min_replies=0.1, rejoin=trace.rejoin)
    run = deployed(replace(given, availability=fl.Always()), channel, policy)
    engine = getattr(run.engine, "_inner", run.engine)  # an aggregator is around it
    assert isinstance(engine, FlowerEngine)
    for _ in range(2):
        engine.registry.online()  # all nodes are known before one of them leaves
    records = []
    for index in range(run.federation.budget.rounds):
        fates = dict(zip(nodes, trace.fates(list(nodes.values()), index, 0), strict=True))
        channel.online = {node: client for node, client in nodes.items() if fates[node] != "away"}
        records.append(run.advance())
    return run.to_end([], records)


class AlmostAlways(fl.Always):
    """A user's change of the default: client 1 misses round 1."""

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        return ["away" if (client, round_index) == (1, 1) else "answers" for client in clients]


@dataclass(frozen=True)
class Shortest(fl.Availability):
    """The shortest availability, with the same absence."""

    name: ClassVar[str] = "shortest"

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        return AlmostAlways().fates(clients, round_index, seed)


@pytest.mark.parametrize("availability", [AlmostAlways(), Shortest()], ids=["subclass of the default", "own class"])
def test_a_users_availability_is_asked(availability: fl.Availability) -> None:
    """Also where it inherits from the default, for which engines need no rules."""
    result = everyone(availability=availability).run()
    assert [record.missing for record in result.rounds] == [(1,) if e == 1 else () for e in range(len(result.rounds))]


@dataclass(frozen=True)
class Returns(fl.Availability):
    """Returns what it is given."""

    name: ClassVar[str] = "returns"
    given: Any = None

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> Any:  # noqa: ANN401
        return self.given


UNKNOWN = (
    "Returns: a fate of round 0 is 'gone', expected 'answers', 'away' or 'dies'; return one of these",
    "Returns: fates of round 0 is {}, expected a list of 5 fates, one for each client; return 'answers', 'away' or "
    "'dies' for each",
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["answers", *["gone"] * 4], UNKNOWN[0]),
        *((given, UNKNOWN[1].format(repr(given))) for given in (["answers"], ["away"] * 6, None, "aways")),
    ],
)
def test_fates_that_break_the_contract_are_refused(given: object, message: str) -> None:
    with pytest.raises(fl.ConfigError) as error:
        everyone(availability=Returns(given)).run()
    assert str(error.value) == message


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("rejoin", ["now", "next-cycle"])
@pytest.mark.parametrize("absences", [AWAY, DYING], ids=["away", "dying"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_simulation_does_what_a_deployment_does(strategy: Any, absences: Any, rejoin: Any, tmp_path: Path) -> None:  # noqa: ANN401
    trace = fl.Trace(absences=absences, rejoin=rejoin)
    given = everyone(strategy=strategy, availability=trace)
    assert_same_bits(given.run(), in_deployment(given, trace, tmp_path))


def test_cohorts_that_change_meet_the_same_rules(tmp_path: Path) -> None:
    trace = fl.Trace(absences=(*AWAY, *DYING), rejoin="next-cycle")
    given = federation(strategy=fl.FedLAMA(2, 2), availability=trace)
    assert_same_bits(given.run(), in_deployment(given, trace, tmp_path))


def test_a_client_that_is_never_there_might_as_well_not_exist() -> None:
    whole = clients()
    four = fl.TensorClients(whole.x, whole.y, whole.rows[:4], 4, prepare=whole.prepare)
    one = everyone(clients=whole, availability=fl.Trace(absences=(fl.Absence(4, 0, 99),)), weighting="equal")
    other = everyone(clients=four, weighting="equal")
    with_absent, without = one.run(), other.run()
    assert all(torch.equal(with_absent.model[name], value) for name, value in without.model.items())
    assert with_absent.ledger.transfers == without.ledger.transfers
    assert [record.missing for record in with_absent.rounds] == [(4,)] * one.budget.rounds


@pytest.mark.parametrize("engine", ["stacked", "workers"])
@pytest.mark.parametrize("scope", ["cohort", "slot", "round"])
def test_engines_agree(engine: str, scope: Any) -> None:  # noqa: ANN401
    solver = fl.SGD(learning_rate=0.05, momentum=0.9, state_scope=scope)
    changes = {"availability": RANDOM, "solver": solver, "local_steps": 24, "keep_client_models": True}
    ours, theirs = (federation(engine=name, **changes).run() for name in (engine, "loop"))
    assert_same(ours, theirs)
    assert ours.ledger.transfers == theirs.ledger.transfers
    assert any(record.missing for record in theirs.rounds)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", "stacked", "workers"])
@pytest.mark.parametrize("rejoin", ["now", "next-cycle"])
def test_a_run_goes_on_in_the_same_bits_after_any_round(engine: str, rejoin: Any) -> None:  # noqa: ANN401
    given = everyone(engine=engine, availability=replace(RANDOM, rejoin=rejoin, min_replies=0.5), local_steps=18)
    whole, first = given.run(), fl.Run(given)
    before: list[fl.RoundRecord] = []
    for rounds in range(1, given.budget.rounds):
        before.append(first.advance())
        second = fl.Run(given)
        second.load_state_dict(first.state_dict(), before)
        again = second.to_end([], before)
        assert all(torch.equal(again.model[name], value) for name, value in whole.model.items()), rounds
        assert again.ledger.transfers == whole.ledger.transfers
        assert [record.layers for record in again.rounds] == [record.layers for record in whole.rounds]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_round_that_nobody_answers_changes_nothing(strategy: Any) -> None:  # noqa: ANN401
    silent = fl.Trace(absences=tuple(fl.Absence(client, 2, 3) for client in range(5)))
    run = fl.Run(everyone(strategy=strategy, availability=silent))
    for _ in range(2):
        run.advance()
    values, state = dict(run.values), run.state
    record = run.advance()
    assert run.state == state
    assert all(torch.equal(run.values[name], value) for name, value in values.items())
    assert (record.answered, record.missing, record.transfers) == ((), (0, 1, 2, 3, 4), ())
    assert math.isnan(record.loss)
    assert not any(layer.synchronised for layer in record.layers.values())
    result = run.to_end([])
    assert all(torch.isfinite(value).all() for value in result.model.values())


def test_too_few_replies_are_booked_but_not_averaged() -> None:
    trace = fl.Trace(absences=(fl.Absence(0, 1, 1), fl.Absence(1, 1, 1, "dies"), fl.Absence(2, 1, 1)), min_replies=0.5)
    run = fl.Run(everyone(strategy=fl.FedAvg(2), availability=trace))
    run.advance()
    values = dict(run.values)
    record = run.advance()
    assert all(torch.equal(run.values[name], value) for name, value in values.items())
    sent = {one.direction: one.clients for one in record.transfers if one.direction != "evaluation"}
    assert sent == {"down": (1, 3, 4), "up": (3, 4)}
    assert math.isnan(record.loss)


def test_who_is_always_there_costs_nothing() -> None:
    assert isinstance(fl.Run(everyone()).engine, LoopEngine)


def test_a_deployments_clients_answer_for_themselves(tmp_path: Path) -> None:
    given = everyone(availability=RANDOM)
    with pytest.raises(fl.ConfigError, match="which clients answer is not decided by FlowerEngine"):
        deployed(given, in_process(given, tmp_path))


def test_the_bytes_of_a_layer_are_those_of_all_transfers_that_hold_it() -> None:
    # Clients that were away lack more layers than the others, so a layer goes down in several transfers of a round.
    result = everyone(strategy=fl.FedLAMA(2, 2), availability=fl.Trace(absences=AWAY)).run()
    apart = 0
    for record in result.rounds:
        for direction in ("down", "up"):
            sent = [one for one in record.transfers if one.direction == direction]
            apart += len(sent) > 1
            for name, layer in record.layers.items():
                of_layer = [(len(one.clients), item) for one in sent for item in one.payloads if item.layer == name]
                total = sum(clients * item.payload_bytes for clients, item in of_layer)
                assert total == (layer.bytes_down if direction == "down" else layer.bytes_up)
    assert apart
