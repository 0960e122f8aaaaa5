"""Lost replies, lost state, damaged replies and clients that come and go: the round goes on and its log says why."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from fedlama import AllClients, FedAvg, FedLAMA, FedlamaError, Run
from fedlama.errors import cut
from fedlama.flower import Flower, RoundPolicy
from fedlama.flower.client.respond import refusal
from fedlama.flower.deploy.federation import deploy_federation
from fedlama.flower.protocol import NEVER, ClientInfo, Failure, Incoming, Outgoing, TrainReply, TrainRequest
from fedlama.flower.server.engine import FlowerEngine
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.runs.network_log import read_log
from tests.flower.cases import QUICK, assert_same_bits, deployed, federation, in_process
from tests.flower.in_process import Fault
from tests.flower.pauses import skip_pauses

HALF = replace(QUICK, min_replies=0.5, deadline=3.0)
SHORT = replace(QUICK, deadline=3.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_pauses(monkeypatch)


def everyone(**changes: object) -> object:
    return federation(**({"strategy": FedLAMA(2, 3), "sampler": AllClients()} | changes))


def once(client: int, round_index: int, what: str) -> Fault:
    """Let one request fail, the first time."""
    left = [what]

    def fault(request: TrainRequest) -> str | None:
        return left.pop() if (request.client, request.round_index) == (client, round_index) and left else None

    return fault


def engine_of(run: Run) -> FlowerEngine:
    assert isinstance(run.engine, FlowerEngine)
    return run.engine


@pytest.mark.parametrize("round_index", [0, 1, 2, 4])
def test_a_request_that_failed_is_sent_again_and_changes_nothing(round_index: int, tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path, once(2, round_index, "crash"))
    assert_models(deployed(given, channel).to_end([]), given.run())


@pytest.mark.parametrize("what", ["lost", "mute"])
def test_too_few_replies_end_the_run_with_a_sentence(what: str, tmp_path: Path) -> None:
    given = everyone()
    run = deployed(given, in_process(given, tmp_path, once(2, 1, what)), SHORT)
    run.advance()
    with pytest.raises(FedlamaError, match="round 1: 4 of 5 clients answered, 5 are needed"):
        run.advance()


def assert_models(result: object, expected: object) -> None:
    for name, value in expected.model.items():  # type: ignore[attr-defined]
        assert torch.equal(result.model[name], value), name  # type: ignore[attr-defined]


@pytest.mark.parametrize("round_index", range(6))
def test_a_client_that_lost_its_state_is_sent_the_full_model(round_index: int, tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path)
    run = deployed(given, channel)
    for _ in range(round_index):
        run.advance()
    channel.path(3).unlink(missing_ok=True)
    record = run.advance()
    incidents = engine_of(run).latest.incidents
    requests = [request for request in channel.requests if (request.round_index, request.client) == (round_index, 3)]
    assert len(requests) == (2 if round_index else 1)
    assert requests[-1].answered_round == NEVER
    assert any("client 3 has lost its state" in one for one in incidents) == bool(round_index)
    down = [one for one in record.transfers if one.direction == "down"]
    assert sum(one.total_bytes for one in down) == sum(
        len(request.payload) for request in channel.requests if request.round_index == round_index
    )
    run.to_end([])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("round", "reply is for round 0"),
        ("short", "another length"),
        ("client", "reply is for client 3"),
    ],
)
def test_a_wrong_reply_is_refused_and_named_and_the_round_goes_on(what: str, says: str, tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path, once(2, 1, what))
    run = deployed(given, channel, HALF)
    run.advance()
    run.advance()
    latest = engine_of(run).latest
    assert latest.missing == {2}
    assert any("client 2: reply refused" in one and says in one for one in latest.incidents)
    run.advance()
    assert engine_of(run).latest.missing == set()
    run.to_end([])


def test_weights_are_rescaled_over_who_answered(tmp_path: Path) -> None:
    given = everyone(strategy=FedAvg(2), local_steps=2, test_set=None)
    run = deployed(given, in_process(given, tmp_path, once(1, 0, "raise")), HALF)
    record = run.advance()
    states = {c: _model(tmp_path, c) for c in (0, 2, 3, 4)}
    total = sum(run.clients.samples(c) for c in states)
    expected = sum(state["0.weight"].double() * run.clients.samples(c) / total for c, state in states.items())
    torch.testing.assert_close(run.values["0.weight"].double(), expected, atol=1e-6, rtol=1e-6)
    (up,) = (one for one in record.transfers if one.direction == "up")
    assert up.clients == (0, 2, 3, 4)


def _model(folder: Path, client: int) -> dict[str, torch.Tensor]:
    from fedlama.flower.client.state import load

    state = load(folder / f"client-{client}.safetensors")
    assert state is not None
    return state.values


def test_a_client_back_mid_cycle_gets_exactly_what_changed_meanwhile(tmp_path: Path) -> None:
    given = everyone(strategy=FedLAMA(2, 4), local_steps=16, test_set=None)
    channel = in_process(given, tmp_path)
    run = deployed(given, channel, HALF)
    changed = []
    for round_index in range(8):
        if round_index == 5:
            away = channel.online.pop(102)
        if round_index == 6:  # it is known when the others train, and takes part from the next round on
            channel.online[777] = away  # another node number, as without authentication
        record = run.advance()
        changed.append({name for name, layer in record.layers.items() if layer.synchronised})
    (request,) = (one for one in channel.requests if (one.round_index, one.client) == (7, 2))
    assert request.answered_round == 4
    sent = {run.layers[index].name for index in _indices(request)}
    assert sent == changed[4] | changed[5] | changed[6]
    assert engine_of(run).latest.missing == set()


def _indices(request: TrainRequest) -> set[int]:
    from fedlama.core import wire

    return set(wire.unpack(request.payload).payloads)


def test_a_client_that_must_wait_comes_back_with_the_full_model_at_the_next_cycle(tmp_path: Path) -> None:
    given = everyone(strategy=FedLAMA(2, 3), local_steps=12, test_set=None)
    channel = in_process(given, tmp_path, once(2, 1, "raise"))
    run = deployed(given, channel, replace(HALF, rejoin="next-cycle"))
    run.to_end([])
    asked = [(request.round_index, request.answered_round) for request in channel.requests if request.client == 2]
    assert asked == [(0, -1), (1, 0), (3, -1), (4, 3), (5, 4)]


def test_an_absent_client_is_waited_for_once(tmp_path: Path) -> None:
    given = everyone(test_set=None)
    channel = in_process(given, tmp_path)
    run = deployed(given, channel, HALF)
    run.advance()
    channel.online.pop(101)
    run.advance()
    assert any("deadline" in one for one in engine_of(run).latest.incidents)
    run.advance()
    assert engine_of(run).latest.incidents == ["client 1 did not answer"]


def test_a_second_node_for_a_client_waits_until_the_first_one_is_gone(tmp_path: Path) -> None:
    channel = in_process(everyone(), tmp_path)
    registry = NodeRegistry(channel, 5)
    for _ in range(2):
        registry.online()
    channel.online[900] = 3
    registry.online()  # asks; the reply comes with the next look
    assert registry.online()[3] == 103  # a newcomer does not take the place of a node that is online
    assert "node 900 says that it serves client 3, as node 103 does, and is not asked while" in registry.problems[900]
    del channel.online[103]
    assert registry.online()[3] == 900  # it does once the other one is gone
    assert registry.problems == {}
    channel.online[103] = 3
    assert registry.online()[3] == 103


def test_a_node_with_a_number_that_does_not_exist_ends_nothing(tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path)
    channel.online[900], channel.claims[900] = 99, 5
    run = deployed(given, channel)
    record = run.advance()
    assert record.missing == ()
    (problem,) = engine_of(run).registry.problems.values()
    assert problem.startswith("node 900 says that it serves client 99, but the federation has 5 clients (0 to 4)")


def test_a_node_that_refuses_is_named(tmp_path: Path) -> None:
    given = everyone(test_set=None)
    channel = in_process(given, tmp_path)
    channel.refusing[103] = "its file is missing"
    run = deployed(given, channel, HALF)
    run.advance()
    assert engine_of(run).latest.missing == {3}
    assert "node 103: its file is missing" in engine_of(run).latest.incidents


def test_a_node_that_refused_is_asked_again(tmp_path: Path) -> None:
    channel = in_process(everyone(), tmp_path)
    channel.refusing[103] = "its file is missing"
    eager, slow = NodeRegistry(channel, 5, pause=0.0), NodeRegistry(channel, 5)
    for registry in (eager, slow):
        registry.online()
        assert set(registry.online()) == {0, 1, 2, 4}
        assert registry.problems == {103: "node 103: its file is missing"}
    del channel.refusing[103]
    assert set(eager.wait_for(range(5), 5.0, 0.01)) == {0, 1, 2, 3, 4}
    assert eager.problems == {}
    assert set(slow.wait_for(range(5), 0.1, 0.01)) == {0, 1, 2, 4}  # its pause is not over


@dataclass
class Slow:
    """Five nodes that need 300 s for each reply, on a clock of its own that each look moves on by 10 s."""

    now: float = 0.0
    sent: list[tuple[int, float]] = field(default_factory=list)  # the node of each request, and the time of its reply

    def monotonic(self) -> float:
        return self.now

    def nodes(self) -> tuple[int, ...]:
        return tuple(range(100, 105))

    def push(self, outgoing: Sequence[Outgoing], lifetime: float) -> list[str]:
        self.sent += [(each.node, self.now + 300 if lifetime >= 300 else math.inf) for each in outgoing]
        return [str(len(self.sent) - len(outgoing) + index) for index in range(len(outgoing))]

    def pull(self, tickets: Collection[str]) -> list[Incoming]:
        self.now += 10.0
        ready = [ticket for ticket in tickets if self.sent[int(ticket)][1] <= self.now]
        return [Incoming(ticket, ClientInfo(self.sent[int(ticket)][0] - 100, 7)) for ticket in ready]


def test_a_node_that_replies_later_than_a_request_lives_is_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Slow()
    monkeypatch.setattr("fedlama.flower.server.nodes.time", channel)
    registry = NodeRegistry(channel, 5)
    while not registry.online():
        assert channel.now < 700
    assert set(registry.online()) == {0, 1, 2, 3, 4}
    assert len(channel.sent) == 15  # requests that live for 120, 240 and 480 s


def test_a_federation_does_not_start_without_its_clients(tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path)
    channel.refusing[102] = "its file is missing"
    engine = Flower(channel, replace(QUICK, join=0.2))
    with pytest.raises(FedlamaError, match=r"no node serves the clients 2 \(node 102: its file is missing\); start"):
        deploy_federation(lambda clients: replace(given, clients=clients), 5, engine, tmp_path / "run")


def test_another_model_on_a_client_is_named(tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(everyone(layers=_by_module(given)), tmp_path)
    with pytest.raises(FedlamaError, match="client 0 cannot train: the model, the labelling or the codec differ"):
        deployed(given, channel).advance()


def _by_module(given: object) -> object:
    from fedlama import by_module

    return by_module(given.model)  # type: ignore[attr-defined]


@pytest.mark.selection
@pytest.mark.parametrize("aggregation", ["models", "sums"])
@pytest.mark.parametrize("killed", range(1, 6))
def test_a_server_killed_in_any_round_goes_on_where_it_was(killed: int, aggregation: str, tmp_path: Path) -> None:
    """The server dies after the clients have trained a round and before it has saved: they replay their replies."""
    given = federation(strategy=FedLAMA(2, 3))
    channel = in_process(given, tmp_path)
    run = deployed(given, channel, aggregation=aggregation)
    records = [run.advance() for _ in range(killed)]
    facts = run.state_dict()
    run.advance()  # lost with the server
    facts = replace(facts, facts=json.loads(json.dumps(facts.facts)))
    again = deployed(given, channel, aggregation=aggregation)
    again.load_state_dict(facts, records)
    result = again.to_end([], records)
    replayed = [reply for reply in channel.replies if reply.replayed]
    assert {reply.round_index for reply in replayed} == {killed}
    if aggregation == "models":
        assert_same_bits(result, given.run())


def test_state_of_another_run_counts_for_nothing(tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path)
    first = deployed(given, channel).to_end([])
    assert_same_bits(deployed(given, channel).to_end([]), first)
    assert not any(reply.replayed for reply in channel.replies)


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    given = everyone(test_set=None)
    channel = in_process(given, tmp_path, once(2, 1, "short"))
    run = deployed(given, channel, HALF, log=tmp_path / "network.jsonl")
    run.to_end([])
    log = read_log(tmp_path / "network.jsonl")
    assert sorted(log) == list(range(6))
    assert log[1]["missing"] == [2]
    assert log[1]["answered"] == [0, 1, 3, 4]
    assert "reply refused" in log[1]["incidents"][0]
    assert log[2]["missing"] == []


def test_a_policy_refuses_nonsense() -> None:
    with pytest.raises(FedlamaError, match="min_replies is 0"):
        RoundPolicy(min_replies=0)


def test_what_a_node_says_cannot_control_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its sentences are logged, printed by `flwr log` and shown in reports."""
    given = everyone(test_set=None)
    channel = in_process(given, tmp_path)
    evil = "\x1b[2J\x1b[31mall is well\r\n\x07" + "x" * 5000
    channel.refusing[104] = cut(evil, 800)
    honest = channel._reply

    def reply(client: int, request: TrainRequest) -> TrainReply | Failure | None:
        return refusal(request, evil) if client == 3 else honest(client, request)

    channel._reply = reply  # type: ignore[method-assign]
    run = deployed(given, channel, replace(HALF, deadline=0.5), log=tmp_path / "network.jsonl")
    run.advance()
    incidents = engine_of(run).latest.incidents
    assert any(incident.startswith("client 3 cannot train: ") for incident in incidents)
    assert all(len(incident) < 1000 for incident in incidents)
    assert all(character.isprintable() for incident in incidents for character in incident)
    assert all(character.isprintable() for record in caplog.records for character in record.getMessage())
