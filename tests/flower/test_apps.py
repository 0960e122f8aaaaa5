"""The ClientApp, called as Flower calls it: its replies, and its sentences when it cannot take part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from fedlama.choices.codecs import Float32
from fedlama.core import wire
from fedlama.core.scores import Score
from fedlama.flower.apps import NODE, FunctionTrainer, LocalRound, client_app, experiment_trainer
from fedlama.flower.payloads import encode_layer
from fedlama.flower.protocol import (
    EVERYONE,
    NEVER,
    ClientInfo,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    InfoRequest,
    Outgoing,
    TrainReply,
    TrainRequest,
    fingerprint,
)
from fedlama.flower.server.requests import EngineState, RequestWriter
from fedlama.flower.transport import _content, _message
from tests.engines.cases import order_of

SMALL = "digits engine=loop partition.clients=2 local_steps=12"


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the process of a run, which Flower asks for its ids when a message is made."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def call(
    outgoing: Outgoing, node: dict[str, Any], run: dict[str, Any], app: ClientApp | None = None
) -> TrainReply | EvaluateReply | ClientInfo | Failure:
    """Send a message through a ClientApp and read its reply as the server does."""
    message = _message(outgoing, 60.0)
    context = Context(run_id=1, node_id=outgoing.node, node_config=node, state=RecordDict(), run_config=run)
    reply: Message = (app or client_app())(message, context)
    return _content(reply)


def request(client: int) -> TrainRequest:
    """The first request to a client of the small experiment."""
    trainer = experiment_trainer(client, SMALL)
    common = TrainRequest(
        "run", fingerprint(trainer.layers, trainer.codec), 0, client, NEVER, 2, 0, (0, 1), (), (), False, b""
    )
    state = EngineState(run="run")
    state.start_cohort([client])
    values = {name: value.clone() for name, value in trainer._setup.model.state_dict().items()}  # type: ignore[attr-defined]
    order = order_of([client], 2, values, new_cohort=True)
    return RequestWriter(common, trainer.layers, trainer.codec, state, order).request(client, full=False)


def test_a_node_names_its_client_and_trains(tmp_path: Path) -> None:
    node, run = {"partition-id": 1, "state-dir": str(tmp_path)}, {"experiment": SMALL}
    info = call(Outgoing(7, InfoRequest()), node, run)
    assert info == ClientInfo(1, experiment_trainer(1, SMALL).samples)
    reply = call(Outgoing(7, request(1)), node, run)
    assert isinstance(reply, TrainReply)
    assert (reply.status, reply.client, reply.trained_round, reply.replayed) == ("done", 1, 0, False)
    again = call(Outgoing(7, request(1)), node, run)
    assert isinstance(again, TrainReply)
    assert again.replayed
    assert again.payload == reply.payload
    assert [path.name for path in tmp_path.glob("*/*.safetensors")] == ["client-1.safetensors"]


@pytest.mark.parametrize(
    ("node", "run", "says"),
    [
        ({}, {"experiment": SMALL}, "the node's partition-id is None, expected a whole number"),
        ({"partition-id": 1}, {"experiment": "digits solver.name=sdg"}, "solver.name is 'sdg'; did you mean 'sgd'?"),
        ({"partition-id": 1}, {"experiment": "nothing.toml"}, "nothing.toml"),
    ],
)
def test_a_node_says_why_it_cannot_take_part(node: dict[str, Any], run: dict[str, Any], says: str) -> None:
    info = call(Outgoing(7, InfoRequest()), node, run)
    assert isinstance(info, Failure)
    assert says in info.reason
    reply = call(Outgoing(7, request(1)), node, run)
    assert isinstance(reply, TrainReply)
    assert reply.status == "refused"
    assert says in reply.detail


def test_what_the_users_code_raises_is_named_with_its_place(tmp_path: Path) -> None:
    def train(model: nn.Module, local_round: LocalRound) -> float:
        raise ValueError(f"no data for client {local_round.client}")

    def make(client: int, config: Mapping[str, Any]) -> FunctionTrainer:
        if client == 2:
            raise KeyError("nothing")
        trainer = experiment_trainer(client, SMALL)
        return FunctionTrainer(trainer._setup.model, train, 5, trainer.layers)  # type: ignore[attr-defined]

    app, node = client_app(make), {"partition-id": 1, "state-dir": str(tmp_path)}
    assert call(Outgoing(7, InfoRequest()), node, {}, app) == ClientInfo(1, 5)
    reply = call(Outgoing(7, request(1)), node, {}, app)
    assert isinstance(reply, TrainReply)
    assert reply.status == "refused"
    assert "ValueError: no data for client 1 (" in reply.detail
    assert f"{__file__}, line " in reply.detail
    info = call(Outgoing(7, InfoRequest()), {"partition-id": 2}, {}, app)
    assert isinstance(info, Failure)
    assert "KeyError: 'nothing'" in info.reason


def test_a_sites_own_configuration_reaches_its_data_and_mods_are_called(tmp_path: Path) -> None:
    """`--node-config 'data="/hospital/x"'` says where a site's data are; the run's configuration cannot know it."""
    seen: list[Any] = []

    def make(client: int, config: Mapping[str, Any]) -> FunctionTrainer:
        seen.append((client, config["rate"], config[NODE]["data"]))
        trainer = experiment_trainer(client, SMALL)
        return FunctionTrainer(trainer._setup.model, lambda *_: 0.0, 5, trainer.layers)  # type: ignore[attr-defined]

    def mod(message: Message, context: Context, next_app: Any) -> Message:  # noqa: ANN401
        seen.append(message.metadata.message_type)
        reply: Message = next_app(message, context)
        return reply

    app = client_app(make, mods=[mod])
    node = {"partition-id": 1, "state-dir": str(tmp_path), "data": "/hospital/x"}
    assert call(Outgoing(7, InfoRequest()), node, {"rate": 0.5}, app) == ClientInfo(1, 5)
    assert seen == ["query", (1, 0.5, "/hospital/x")]


def test_a_client_scores_on_its_own_test_set(tmp_path: Path) -> None:
    def make(client: int, config: Mapping[str, Any]) -> FunctionTrainer:
        trainer = experiment_trainer(client, SMALL)
        given = None if client else (lambda _: Score(0.25, {"auc": 0.75}, "auc", "higher"))
        return FunctionTrainer(trainer._setup.model, lambda *_: 0.0, 5, trainer.layers, evaluate=given)  # type: ignore[attr-defined]

    trainer = experiment_trainer(0, SMALL)
    values = trainer._setup.model.state_dict()  # type: ignore[attr-defined]
    payloads = {index: encode_layer(layer, values, Float32()) for index, layer in enumerate(trainer.layers)}
    payload = wire.pack(wire.Message(4, EVERYONE, payloads))
    for client, score in ((0, Score(0.25, {"auc": 0.75}, "auc", "higher")), (1, None)):
        asked = EvaluateRequest(fingerprint(trainer.layers, trainer.codec), 4, client, payload)
        reply = call(Outgoing(7, asked), {"partition-id": client}, {}, client_app(make))
        detail = "" if score else "this client has no test set of its own"
        assert reply == EvaluateReply(4, client, score, detail)
    other = EvaluateRequest("another", 4, 0, payload)
    reply = call(Outgoing(7, other), {"partition-id": 0}, {}, client_app(make))
    assert isinstance(reply, EvaluateReply)
    assert "the model, the labelling or the codec differ from the server's" in reply.detail
    broken = EvaluateRequest(fingerprint(trainer.layers, trainer.codec), 4, 0, b"nothing")
    reply = call(Outgoing(7, broken), {"partition-id": 0}, {}, client_app(make))
    assert isinstance(reply, EvaluateReply)
    assert reply.score is None
