"""FedLDF in a deployment: reports of distances up, the server's choice down, then the chosen layers up."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.core import wire
from fedlama.core.ledger import CHOICE, DISTANCES
from fedlama.errors import ConfigError, DataError
from fedlama.flower import Flower, RoundPolicy
from fedlama.flower.choice import asked_layers, read_report, write_choice
from fedlama.flower.deploy.fit import exchange_problems
from fedlama.flower.protocol import TrainRequest
from tests.engines.cases import network
from tests.flower.cases import assert_same_bits, deployed, federation, in_process
from tests.flower.in_process import InProcessChannel

LENIENT = RoundPolicy(deadline=0.5, join=1.0, poll=0.01, min_replies=0.5)
BY_TENSOR = fl.by_tensor(network())
CASES: dict[str, dict[str, Any]] = {
    "everyone": {"sampler": fl.AllClients()},
    "cohorts": {},
    "all send all": {"strategy": fl.FedLDF(2, senders=3)},
    "one sender": {"strategy": fl.FedLDF(2, senders=1)},
    "float16": {"codec": fl.Float16()},
    "differences": {"codec": fl.Differences(4, feedback=False)},
    "scaffold": {"solver": fl.Scaffold(0.05)},
    "own scores": {"evaluate_every": 4},
    "statistics": {"layers": fl.by_module(network())},
    "a head that stays": {"layers": fl.tagged(fl.by_module(network()), local=["4"])},
    "server optimizer": {"server_optimizer": fl.ServerMomentum(momentum=0.5)},
}


def fedldf(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    return federation(**({"strategy": fl.FedLDF(2, senders=2), "local_steps": 12} | changes))


@pytest.mark.parametrize("case", CASES)
def test_same_bits_and_bytes_as_loop(case: str, tmp_path: Path) -> None:
    given = fedldf(**CASES[case])
    channel = in_process(given, tmp_path)
    result = deployed(given, channel).to_end([])
    assert_same_bits(result, given.run())
    ledger = result.ledger
    assert ledger.total_bytes("down") == sum(len(request.payload) for request in channel.requests)
    up = ledger.total_bytes("up") + ledger.total_bytes("evaluation")
    assert up == sum(len(reply.payload) + len(reply.evaluation) for reply in channel.replies)
    assert {DISTANCES, CHOICE} <= {row.layer for row in ledger.rows()}


def test_no_client_trains_twice_and_a_choice_is_a_bit_for_each_layer(tmp_path: Path) -> None:
    given = fedldf(sampler=fl.AllClients())
    channel = in_process(given, tmp_path)
    deployed(given, channel).advance()
    stages = [request.stage for request in channel.requests]
    assert stages == ["distances"] * 5 + ["chosen"] * 5
    assert [reply.replayed for reply in channel.replies] == [False] * 5 + [True] * 5
    assert len(channel.requests[-1].payload) == 40 + 16 + 1  # the network has five layers
    assert all(len(reply.payload) == 40 + 16 + 5 * 8 for reply in channel.replies[:5])
    senders: dict[int, int] = {}
    for reply in channel.replies[5:]:
        for index in wire.unpack(reply.payload).payloads:
            senders[index] = senders.get(index, 0) + 1
    assert senders == dict.fromkeys(range(5), 2)


def test_sums_take_the_same_senders(tmp_path: Path) -> None:
    given = fedldf(sampler=fl.AllClients())
    result, expected = deployed(given, in_process(given, tmp_path), aggregation="sums").to_end([]), given.run()
    for name, value in expected.model.items():
        torch.testing.assert_close(result.model[name], value, rtol=1e-4, atol=1e-5)


def test_replies_that_are_lost_are_sent_again(tmp_path: Path) -> None:
    given = fedldf(sampler=fl.AllClients())
    seen: set[tuple[int, int, str]] = set()

    def fault(request: TrainRequest) -> str | None:
        key = request.round_index, request.client, request.stage
        first = key not in seen
        seen.add(key)
        return "crash" if first and request.client % 2 else None

    result, expected = deployed(given, in_process(given, tmp_path, fault)).to_end([]), given.run()
    assert all(torch.equal(result.model[name], value) for name, value in expected.model.items())


class Forgets(InProcessChannel):
    """Client 2 loses its file between the two exchanges of the second round."""

    def _reply(self, client: int, request: TrainRequest) -> Any:  # noqa: ANN401
        if (client, request.round_index, request.stage) == (2, 1, "chosen"):
            self.path(2).unlink(missing_ok=True)
        return super()._reply(client, request)


def test_a_client_that_is_lost_between_the_exchanges_is_left_out_of_the_averages(tmp_path: Path) -> None:
    given = fedldf(sampler=fl.AllClients(), strategy=fl.FedLDF(2, senders=5))
    channel = Forgets(given.engine_setup, 5, tmp_path)
    live = deployed(given, channel, LENIENT)
    records = [live.advance() for _ in range(3)]
    up = [t for t in records[1].transfers if t.direction == "up"]
    assert [t.clients for t in up] == [(0, 1, 2, 3, 4), (0, 1, 3, 4)]
    again = [request for request in channel.requests if request.client == 2 and request.round_index == 2]
    assert [request.answered_round for request in again] == [1, -1, 2]  # then it is sent the full model


def test_a_restarted_server_gets_the_reports_again(tmp_path: Path) -> None:
    given = fedldf(sampler=fl.AllClients())
    channel = in_process(given, tmp_path)
    first = deployed(given, channel)
    before = [first.advance()]
    snapshot = first.state_dict()
    first.advance()  # lost with the server
    second = deployed(given, channel)
    second.load_state_dict(snapshot, before)
    assert_same_bits(second.to_end([], before), given.run())


def request(**changes: Any) -> TrainRequest:  # noqa: ANN401  (any field)
    made = TrainRequest("run", "print", 0, 1, 0, 1, 0, (0, 2, 4), (), (), False, b"", stage="chosen")
    return replace(made, **changes)


def test_a_choice_names_layers_that_are_due() -> None:
    def chosen(bits: bytes) -> TrainRequest:
        return request(payload=wire.pack(wire.Message(0, 1, {5: bits})))

    assert write_choice((0, 2, 4), {2, 4}) == b"\6"
    assert asked_layers(chosen(b"\6"), BY_TENSOR) == (2, 4)
    assert asked_layers(request(stage="whole"), BY_TENSOR) == (0, 2, 4)
    assert asked_layers(request(stage="distances"), BY_TENSOR) == ()
    for wrong in (chosen(b""), chosen(b"\6\0"), chosen(b"\x08"), request(payload=wire.pack(wire.Message(0, 1, {})))):
        with pytest.raises(DataError, match="choice is not one bit for each of 3 layers"):
            asked_layers(wrong, BY_TENSOR)


@pytest.mark.parametrize("numbers", [(1.0, 2.0), (1.0, 2.0, -1.0), (1.0, float("nan"), 1.0), (1.0, float("inf"), 1.0)])
def test_a_report_is_one_number_for_each_layer(numbers: tuple[float, ...]) -> None:
    def read(given: tuple[float, ...], index: int = 5) -> dict[str, float]:
        message = wire.Message(0, 1, {index: struct.pack(f"<{len(given)}d", *given)})
        return read_report(message, request(stage="distances"), BY_TENSOR)

    names = [layer.name for layer in BY_TENSOR]
    assert read((1.0, 0.0, 4.0)) == {names[0]: 1.0, names[2]: 0.0, names[4]: 4.0}
    for wrong in (lambda: read(numbers), lambda: read((1.0, 2.0, 3.0), index=4)):
        with pytest.raises(DataError, match="distances are not one finite number of 0 or more for each of 3 layers"):
            wrong()


def test_what_has_one_exchange_refuses_it(tmp_path: Path) -> None:
    assert exchange_problems(fl.FedAvg(2)) == []
    (sentence,) = exchange_problems(fl.FedLDF(2))
    assert "in a round of Flower's own loop there is one exchange of messages" in sentence
    given = fedldf(sampler=fl.AllClients())
    with pytest.raises(ConfigError, match="the strategy asks different layers of different clients"):
        fl.Run(replace(given, engine=Flower(in_process(given, tmp_path), aggregation="secure")))
