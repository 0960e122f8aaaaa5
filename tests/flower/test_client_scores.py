"""Scores of single clients in a deployment: measured by the clients themselves, and recorded as in a simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.flower import Flower
from fedlama.flower.client.function import FunctionTrainer
from fedlama.flower.client.trainer import LocalRound
from fedlama.flower.deploy.federation import deploy_federation
from fedlama.flower.protocol import EvaluateRequest
from fedlama.flower.server.nodes import RemoteClients
from tests.evaluation.cases import federation
from tests.flower.cases import QUICK, assert_same_bits, deployed, in_process


def both(**changes: Any) -> fl.Federation:  # noqa: ANN401
    """Four clients, of which the third has no test set."""
    settings: dict[str, Any] = {"early_stopping": None, "validation_set": None, "local_steps": 16}
    return federation("loop", **{**settings, "evaluate_clients": "both", **changes})


def scores(result: fl.Result) -> list[Any]:
    return [record.client_scores for record in result.rounds]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluate_clients": "own", "test_set": None},
        {"evaluate_clients": "global", "test_set": None},
        {"sampler": fl.UniformSampler(2)},
        {"codec": fl.Differences(bits=4), "strategy": fl.FedLAMA(2, 2)},
    ],
    ids=["both", "own", "global", "two of four", "codec"],
)
def test_scores_are_those_of_the_loop_engine(changes: dict[str, Any], tmp_path: Path) -> None:
    given = both(**changes)
    expected, result = given.run(), deployed(given, in_process(given, tmp_path)).to_end([])
    assert_same_bits(result, expected)
    assert scores(result) == scores(expected)
    assert any(seen for seen in scores(result))


@pytest.mark.parametrize(("fault", "repeats"), [("crash", 2), ("round", 0)])
def test_a_client_that_gives_no_score_is_left_out(fault: str, repeats: int, tmp_path: Path) -> None:
    given = both(strategy=fl.FedAvg(2), local_steps=4)
    channel = in_process(given, tmp_path / "states")
    channel.score_fault = lambda request: fault if (request.client, request.round_index) == (1, 0) else None
    log = tmp_path / "network.jsonl"
    result = deployed(given, channel, log=log).to_end([])
    first, last = scores(result)
    assert first is None  # nothing is due after the first round
    assert set(last.global_model) == {0, 1, 3}
    assert not [line for line in log.read_text().splitlines() if json.loads(line)["incidents"]]
    channel = in_process(given, tmp_path / "again")
    channel.score_fault = lambda request: fault if (request.client, request.round_index) == (1, 1) else None
    result = deployed(given, channel, log=log).to_end([])
    assert set(scores(result)[1].global_model) == {0, 3}
    assert set(scores(result)[1].own_model) == {0, 1, 3}
    sent = [t.clients for t in result.rounds[1].transfers if t.direction == "evaluation-down"]
    assert sent == [(0, 1, 3), *[(1,)] * repeats]
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["scored"] == [0, 3]
    assert any("client 1" in incident for incident in line["incidents"])


def test_a_score_that_never_comes_ends_at_the_deadline(tmp_path: Path) -> None:
    given = both(strategy=fl.FedAvg(2), local_steps=4)
    channel = in_process(given, tmp_path)
    channel.score_fault = lambda request: "lost" if request.client == 3 else None
    run = deployed(given, channel, replace(QUICK, deadline=0.3))
    result = run.to_end([])
    assert set(scores(result)[1].global_model) == {0, 1}
    assert result.score is not None


def test_a_client_that_is_away_is_not_waited_for(tmp_path: Path) -> None:
    given = both(strategy=fl.FedAvg(2), local_steps=4, sampler=fl.UniformSampler(2))
    channel = in_process(given, tmp_path)
    run = deployed(given, channel)
    run.advance()
    cohort = run.cohort
    away = next(client for client in (0, 1, 3) if client not in cohort)

    def leaves(request: EvaluateRequest) -> str | None:
        channel.online.pop(100 + away, None)
        return None if request.client != away else "lost"

    channel.score_fault = leaves
    record = run.advance()
    assert record.client_scores is not None
    assert away not in record.client_scores.global_model or away in cohort


def test_a_reply_that_is_repeated_brings_its_score_again(tmp_path: Path) -> None:
    """The server died after a client trained: the client's score comes with its replayed reply."""
    given = both(strategy=fl.FedAvg(2), local_steps=4)
    expected = given.run()
    muted: list[int] = []

    def mute(request: Any) -> str | None:  # noqa: ANN401
        if (request.client, request.round_index) == (0, 1) and not muted:
            muted.append(1)
            return "mute"
        return None

    channel = in_process(given, tmp_path, mute)
    first = deployed(given, channel, replace(QUICK, deadline=0.3))
    before = [first.advance()]
    snapshot = first.state_dict()
    with pytest.raises(fl.FedlamaError, match="3 of 4 clients answered"):
        first.advance()
    second = deployed(given, channel)
    second.load_state_dict(snapshot, before)
    assert scores(second.to_end([], before)) == scores(expected)
    assert [reply.replayed for reply in channel.replies[-4:]] == [True] * 4


def nothing(model: nn.Module, local_round: LocalRound) -> float:
    """Train nothing."""
    return 0.0


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(6, 3)


def test_a_function_of_the_users_own_scores(tmp_path: Path) -> None:
    seen: list[bool] = []

    def evaluate(model: nn.Module) -> fl.Score:
        seen.append(model.training or torch.is_grad_enabled())
        return fl.Score(float(model.weight.sum()), {"auc": 0.5}, "auc", "higher")  # type: ignore[arg-type]

    trainer = FunctionTrainer(network(), nothing, 5, evaluate=evaluate)
    values = {name: torch.full_like(value, 2.0) for name, value in network().state_dict().items()}
    assert trainer.has_test_set
    assert trainer.score(values) == fl.Score(36.0, {"auc": 0.5}, "auc", "higher")
    assert seen == [False]
    assert not FunctionTrainer(network(), nothing, 5).has_test_set
    wrong = FunctionTrainer(network(), nothing, 5, evaluate=lambda _: 0.5)  # type: ignore[arg-type, return-value]
    with pytest.raises(
        fl.ConfigError, match=r"evaluate returned float, expected a fedlama\.Score; return fedlama\.Score"
    ):
        wrong.score(values)


def test_a_server_without_any_data_records_the_clients_scores(tmp_path: Path) -> None:
    """The server of a federation of the user's own knows only what the nodes say: numbers, and who has a test set."""
    given = both(test_set=None, strategy=fl.FedAvg(2), local_steps=8)
    channel = in_process(given, tmp_path / "states")
    known: list[RemoteClients] = []

    def build(clients: RemoteClients) -> fl.Federation:
        known.append(clients)
        return replace(given, clients=clients)

    result = deploy_federation(build, 4, Flower(channel, QUICK), tmp_path / "run")
    assert known[0].with_test_set == {0, 1, 3}
    assert scores(result) == scores(given.run())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["client_scores"]["global"]["clients"] == 3
    stored = fl.load_run(tmp_path / "run")
    assert scores(stored.result()) == scores(result)
    assert stored.ledger.total_bytes("evaluation-down") > 0
