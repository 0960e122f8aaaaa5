"""The server's list of its clients, bans, and the way back to an earlier round after a client has lied."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedlama as fl
from fedlama.flower import Flower
from fedlama.flower.client.respond import respond
from fedlama.flower.client.trainer import LoopTrainer
from fedlama.flower.deploy.federation import Continuation, deploy_experiment, deploy_federation
from fedlama.flower.deploy.submit import run_config
from fedlama.flower.protocol import Failure, TrainReply, TrainRequest
from fedlama.flower.server.engine import FlowerEngine
from fedlama.flower.server.known_clients import KnownClients, read_clients_file
from fedlama.flower.server.nodes import NodeRegistry, RemoteClients
from fedlama.flower.settings import history_of, known_clients_of
from fedlama.runs.network_log import NAME, read_log
from fedlama.runs.stored import changed_files
from tests.experiment.helpers import experiment
from tests.experiment.helpers import federation as assembled
from tests.flower.cases import QUICK, deployed, federation, in_process
from tests.flower.in_process import InProcessChannel

HALF = replace(QUICK, min_replies=0.5)


def everyone(**changes: Any) -> fl.Federation:  # noqa: ANN401
    """Five clients, all of which take part."""
    settings: dict[str, Any] = {"strategy": fl.FedAvg(2), "sampler": fl.AllClients(), "solver": fl.SGD(0.05)}
    return federation(**(settings | changes))


FILE = """\
[clients.0]
node = 100
samples = 7
key = "SHA256:abc"
name = "hospital A"

[clients.3]
banned = true
"""


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(FILE)
    known = known_clients_of({"clients-file": str(path), "banned": "1, 4", "max-samples": 50})
    assert known == KnownClients({0: 100}, {0: 7}, frozenset({1, 3, 4}), 50)
    assert known_clients_of({}) == KnownClients()
    assert history_of({}) == (10, None)
    assert history_of({"from-round": 3, "keep-checkpoints": 2}) == (2, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[clients.a]", r"clients\.a is not the table of a client; write \[clients\.0\]"),
        ("[clients.0]\nnode = 0", r"clients\.0\.node is 0, expected a whole number of 1 or more"),
        ("[clients.0]\nsamples = true", r"clients\.0\.samples is True, expected a whole number"),
        ("[clients.0]\nban = true", r"clients\.0\.ban is not known; did you mean 'banned'"),
        ("[clients.0]\nbanned = 1", r"clients\.0\.banned is 1, expected true or false"),
        ("[clients.0]\nnode = 5\n[clients.2]\nnode = 5", "the clients 0, 2 have the same node; give each its own"),
        ("[client.0]", r"client is not known; write \[clients\.0\]"),
        ("nodes = ", "is not valid TOML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "clients.toml").write_text(text)
    with pytest.raises(fl.ConfigError, match=says):
        read_clients_file(tmp_path / "clients.toml")


def test_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(fl.ConfigError, match=r"the clients file .*nothing\.toml cannot be read"):
        known_clients_of({"clients-file": str(tmp_path / "nothing.toml")})
    with pytest.raises(fl.ConfigError, match="banned is '3;5', expected clients' numbers such as '3,5'"):
        known_clients_of({"banned": "3;5"})
    with pytest.raises(fl.ConfigError, match="max-samples is -1, expected a whole number of 0 or more"):
        known_clients_of({"max-samples": -1})
    with pytest.raises(fl.ConfigError, match=r"from-round is 1\.5, expected a whole number of -1 or more"):
        history_of({"from-round": 1.5})


def test_a_node_cannot_pose_as_a_client_that_is_bound_to_another(tmp_path: Path) -> None:
    channel = in_process(everyone(), tmp_path)
    channel.online = {100: 0, 901: 1, 102: 2, 103: 0}
    registry = NodeRegistry(channel, 5, KnownClients(nodes={0: 100, 1: 101, 3: 103}), pause=0.0)
    registry.online()
    assert registry.online() == {0: 100, 2: 102}
    assert "node 901 says that it serves client 1, which the clients file binds to node 101" in registry.problems[901]
    assert "node 103 says that it serves client 0, which the clients file binds to node 100" in registry.problems[103]
    channel.online = {103: 4}
    registry.online()
    assert registry.online() == {}
    assert "node 103 says that it serves client 4, but the clients file binds it to client 3" in registry.problems[103]


def test_samples_are_fixed_or_capped(tmp_path: Path) -> None:
    """A client that claims 2^53 - 1 samples would be the model."""
    given = everyone()
    channel = in_process(given, tmp_path / "states")
    channel.claims = {101: 2**53 - 1, 102: 2**53 - 1}
    seen: list[RemoteClients] = []

    def build(clients: RemoteClients) -> fl.Federation:
        seen.append(clients)
        return replace(given, clients=clients)

    engine = Flower(channel, QUICK, known=KnownClients(samples={1: 30}, most_samples=40))
    deploy_federation(build, 5, engine, tmp_path / "run")
    honest = given.engine_setup().clients
    assert list(seen[0].counts) == [min(honest.samples(0), 40), 30, 40, *(min(honest.samples(c), 40) for c in (3, 4))]
    channel.claims = {100: 10**6}
    deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run")  # later claims change no weight
    assert list(seen[1].counts) == list(seen[0].counts)


class Liars(InProcessChannel):
    """Clients of which one sends well-formed nonsense from a round on: ten times its update, the other way."""

    liar, first = 3, 2

    def _reply(self, client: int, request: TrainRequest) -> TrainReply | Failure | None:
        if client != self.liar or request.round_index < self.first:
            return super()._reply(client, request)
        trainer = Turned(self._setup(), client)
        reply = respond(request, trainer, self.path(client))
        self.requests.append(request)
        self.replies.append(reply)
        return reply


class Turned(LoopTrainer):
    """Sends the opposite of its update, far too long."""

    def train(self, values: Any, *args: Any) -> Any:  # noqa: ANN401
        trained, state, loss = super().train(values, *args)

        def turned(name: str, value: Tensor) -> Tensor:
            return values[name] - 1e6 * (value - values[name]) if value.is_floating_point() else value

        return {name: turned(name, value) for name, value in trained.items()}, state, loss


def liars(given: fl.Federation, folder: Path) -> Liars:
    return Liars(given.engine_setup, 5, folder)


@pytest.mark.filterwarnings("ignore::fedlama.errors.ExplodedLossWarning")
def test_a_lie_is_found_banned_and_undone(tmp_path: Path) -> None:
    """The norms name the client; the run is taken back to before its first lie, and goes on without it."""
    given = everyone(local_steps=12)
    channel = liars(given, tmp_path / "states")
    path = tmp_path / "run"

    def build(clients: RemoteClients) -> fl.Federation:
        return replace(given, clients=clients)

    spoilt = deploy_federation(build, 5, Flower(channel, HALF), path, Continuation(keep=10))
    assert max(float(value.abs().max()) for value in spoilt.model.values()) > 100
    log = read_log(path / NAME)
    norms = {int(client): norm for client, norm in log[2]["norms"].items()}
    assert max(norms, key=lambda client: norms[client]) == 3
    assert norms[3] > 1000 * max(norm for client, norm in norms.items() if client != 3)
    assert json.loads((path / "config.json").read_text())["environment"]["files"]

    banned = Flower(channel, HALF, known=KnownClients(banned=frozenset({3})))
    result = deploy_federation(build, 5, banned, path, Continuation(keep=10, from_round=2))
    trace = fl.Trace(absences=(fl.Absence(3, 2, 99),), min_replies=0.5)
    expected = replace(given, availability=trace).run()
    for name, value in expected.model.items():
        assert torch.equal(result.model[name], value), name
    assert [record.cohort for record in result.rounds] == [record.cohort for record in expected.rounds]
    log = read_log(path / NAME)
    assert (log[1].get("banned"), log[2]["banned"], log[2]["answered"]) == (None, [3], [0, 1, 2, 4])
    assert fl.load_run(path).result().rounds[-1].loss == result.rounds[-1].loss
    assert not changed_files(path)


def test_a_run_that_is_taken_back_is_the_same_run(tmp_path: Path) -> None:
    """No client replays what it trained before, and no old reply counts; without state the bits are the same."""
    given = everyone(local_steps=12)
    channel = in_process(given, tmp_path / "states")

    def build(clients: RemoteClients) -> fl.Federation:
        return replace(given, clients=clients)

    first = deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run", Continuation(keep=10))
    count = len(channel.replies)
    for from_round in (5, 5, 3):
        again = deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run", Continuation(10, from_round))
        assert all(torch.equal(again.model[name], value) for name, value in first.model.items())
    assert not any(reply.replayed for reply in channel.replies[count:])
    assert {reply.status for reply in channel.replies[count:]} == {"done"}
    assert [r.round_index for r in channel.requests[count::5]] == [5, 5, 3, 4, 5]
    with pytest.raises(fl.ConfigError, match=r"from-round is 9, but .*run has no checkpoint from just before it"):
        deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run", Continuation(10, 9))


def test_what_never_leaves_a_client_survives_a_run_that_is_taken_back(tmp_path: Path) -> None:
    base = everyone(local_steps=8)
    layers = fl.tagged(fl.by_tensor(base.model), local=[fl.by_tensor(base.model)[-1].name])
    given = replace(base, layers=layers, test_set=None)
    channel = in_process(given, tmp_path / "states")

    def build(clients: RemoteClients) -> fl.Federation:
        return replace(given, clients=clients)

    deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run", Continuation(keep=10))
    from fedlama.flower.client.state import load

    name = layers[-1].tensors[0].name
    before = load(channel.path(0))
    assert before is not None
    deploy_federation(build, 5, Flower(channel, QUICK), tmp_path / "run", Continuation(10, 3))
    after = load(channel.path(0))
    assert after is not None
    initial = dict(given.model.state_dict())[name]
    assert float((after.values[name] - initial).norm()) > float((before.values[name] - initial).norm())


def test_a_ban_that_leaves_nobody_is_refused(tmp_path: Path) -> None:
    given = everyone()
    run = deployed(given, in_process(given, tmp_path), known=KnownClients(banned=frozenset(range(5))))
    with pytest.raises(fl.FedlamaError, match=r"round 0: all clients of the cohort \(0, 1, 2, 3, 4\) are banned"):
        run.advance()


def test_the_norm_in_the_log_by_hand(tmp_path: Path) -> None:
    given = everyone(local_steps=2)
    channel = in_process(given, tmp_path / "states")
    run = deployed(given, channel, log=tmp_path / "network.jsonl")
    start = {name: value.clone() for name, value in run.values.items()}
    run.advance()
    assert isinstance(run.engine, FlowerEngine)
    trained = [spec.name for layer in run.layers for spec in layer.tensors if spec.trainable]
    layers = run.engine.latest.updates[2].layers.values()
    got = {name: value for values in layers for name, value in values.items()}
    squares = sum(float(((got[name].double() - start[name].double()) ** 2).sum()) for name in trained)
    assert read_log(tmp_path / "network.jsonl")[0]["norms"]["2"] == pytest.approx(math.sqrt(squares))
    summed = deployed(given, in_process(given, tmp_path / "b"), log=tmp_path / "sums.jsonl", aggregation="sums")
    summed.advance()
    assert "norms" not in read_log(tmp_path / "sums.jsonl")[0]  # it looks at no single model


def test_a_folder_of_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    """It was overwritten without a word, or continued with another learning rate."""
    given = everyone(local_steps=4)
    channel = in_process(given, tmp_path / "states")

    def deploy(rate: float, aggregation: Any = "models", **changes: Any) -> fl.Result:  # noqa: ANN401
        settings = {"learning-rate": rate, "aggregation": aggregation}
        engine = Flower(channel, QUICK, aggregation)
        return deploy_federation(
            lambda clients: replace(given, clients=clients, **changes),
            5,
            engine,
            tmp_path / "run",
            Continuation(settings=settings),
        )

    deploy(0.1)
    with pytest.raises(fl.DataError, match=r"run with other settings \(learning-rate was 0\.1, and is 0\.2 now\)"):
        deploy(0.2)
    with pytest.raises(fl.DataError, match="aggregation was 'models', and is 'sums' now"):
        deploy(0.1, "sums")
    with pytest.raises(fl.DataError, match=r"local_steps was 4, and is 6 now"):
        deploy(0.1, local_steps=6)
    assert deploy(0.1).rounds[-1].round_index == 1


def test_an_experiment_is_taken_back_too(tmp_path: Path) -> None:
    settings = (
        "engine=loop",
        "local_steps=12",
        "strategy.base_interval=3",
        "strategy.increase_factor=1",
        "solver.momentum=0",
    )
    given, channel = experiment(*settings), in_process(assembled(*settings), tmp_path / "states")
    first = deploy_experiment(given, Flower(channel, QUICK), tmp_path / "runs", Continuation(keep=3))
    again = deploy_experiment(given, Flower(channel, QUICK), tmp_path / "runs", Continuation(3, 2))
    assert [record.loss for record in again.result.rounds] == [record.loss for record in first.result.rounds]
    folder = Path(str(first.summary["run_folder"]))
    assert (folder / "checkpoints").is_dir()
    assert fl.load_run(folder).result().rounds[-1].loss == first.result.rounds[-1].loss


def test_aggregators_are_submitted_unless_there_are_only_sums() -> None:
    for name in ("median", "trimmed-mean", "norm-bound"):
        given = experiment("engine=loop", f"aggregator.name={name}")
        assert name in run_config(given, {})
        with pytest.raises(fl.ConfigError, match=f"aggregator.name is '{name}', but aggregation is 'sums'"):
            run_config(given, {"aggregation": "sums"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("clients = [1]", r"clients is \[1\], expected tables; write \[clients.0\]"),
        ("[[clients]]\nnode = 3", "expected tables"),
        ("[clients.3]\nbanned = true\n[clients.03]\nnode = 5", "clients.03 is not the table of a client"),
        (f"[clients.{'9' * 5000}]", "is not the table of a client"),
        ("x = " + "[" * 3000, "is not valid TOML"),
    ],
)
def test_a_file_that_would_be_taken_for_an_empty_one_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "clients.toml").write_text(text)
    with pytest.raises(fl.ConfigError, match=problem):
        read_clients_file(tmp_path / "clients.toml")


def test_numbers_of_clients_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    known = KnownClients(nodes={4: 11}, samples={1: 5}, banned=frozenset({9}))
    assert known.problems(10) == []
    assert known.problems(4) == [
        "banned names client 9, expected 0 to 3: clients are counted from 0; correct it",
        "the clients file names client 4, expected 0 to 3: clients are counted from 0; correct it",
    ]
    with pytest.raises(fl.ConfigError, match="banned names client 9, expected 0 to 3"):
        NodeRegistry(in_process(federation(), tmp_path), 4, KnownClients(banned=frozenset({9})))
    with pytest.raises(fl.ConfigError, match="banned is '99999999999', expected clients' numbers"):
        known_clients_of({"banned": "99999999999"})
