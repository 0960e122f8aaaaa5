"""The final model is offered to every node: kept with its digest, refused with another one, and never waited for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.flower import Flower
from fedlama.flower.client.state import read_tensors
from fedlama.flower.deploy.federation import Continuation, deploy_experiment, deploy_federation
from fedlama.flower.protocol import EvaluateReply, EvaluateRequest, model_digest
from fedlama.flower.server.engine import FINAL
from tests.experiment.helpers import experiment
from tests.experiment.helpers import federation as assembled
from tests.flower.cases import QUICK, federation, in_process


def everyone(**changes: Any) -> fl.Federation:  # noqa: ANN401
    return federation(**({"strategy": fl.FedAvg(2), "sampler": fl.AllClients(), "local_steps": 4} | changes))


@pytest.mark.parametrize("aggregator", [fl.Mean(), fl.Median()], ids=str)
def test_every_node_keeps_the_final_model(aggregator: Any, tmp_path: Path) -> None:  # noqa: ANN401
    given = everyone(aggregator=aggregator)
    channel = in_process(given, tmp_path / "states")
    plain = deploy_federation(
        lambda clients: replace(given, clients=clients), 5, Flower(channel, QUICK), tmp_path / "plain"
    )
    assert not (tmp_path / "plain" / FINAL).exists()
    assert channel.evaluations == []
    result = deploy_federation(
        lambda clients: replace(given, clients=clients),
        5,
        Flower(channel, QUICK),
        tmp_path / "run",
        Continuation(final=True),
    )
    record = json.loads((tmp_path / "run" / FINAL).read_text())
    assert (record["kept"], record["incidents"]) == ([0, 1, 2, 3, 4], [])
    sent = [spec.name for layer in given.labelling() for spec in layer.tensors]
    assert record["digest"] == model_digest({name: result.model[name] for name in sent})
    for client in range(5):
        kept, facts = read_tensors(tmp_path / "states" / f"final-{client}.safetensors")
        assert all(torch.equal(kept[name], result.model[name]) for name in sent)
        assert facts == {"digest": record["digest"], "rounds": "2"}
    assert result.ledger.transfers == plain.ledger.transfers


def test_another_model_is_not_kept_and_nodes_that_are_away_are_not_waited_for(tmp_path: Path) -> None:
    given = everyone()
    channel = in_process(given, tmp_path / "states")
    honest = channel._score

    def score(client: int, request: EvaluateRequest) -> Any:  # noqa: ANN401
        channel.online.pop(104, None)
        return honest(client, replace(request, digest="0" * 64) if client == 2 else request)

    channel._score = score  # type: ignore[method-assign]
    deploy_federation(
        lambda clients: replace(given, clients=clients),
        5,
        Flower(channel, QUICK),
        tmp_path / "run",
        Continuation(final=True),
    )
    record = json.loads((tmp_path / "run" / FINAL).read_text())
    assert set(record["kept"]) >= {0, 1, 3}
    assert 2 not in record["kept"]
    assert any("client 2 gives no score: the final model arrived with another digest" in i for i in record["incidents"])
    assert not (tmp_path / "states" / "final-2.safetensors").exists()


def test_an_experiment_sends_its_final_model_too(tmp_path: Path) -> None:
    settings = ("engine=loop", "local_steps=6", "strategy.base_interval=3")
    given, channel = experiment(*settings), in_process(assembled(*settings), tmp_path / "states")
    finished = deploy_experiment(given, Flower(channel, QUICK), tmp_path / "runs", Continuation(final=True))
    record = json.loads((Path(str(finished.summary["run_folder"])) / FINAL).read_text())
    assert record["kept"] == [0, 1, 2, 3]
    assert record["digest"] == model_digest(finished.result.model)


def test_the_digest_sees_names_types_shapes_and_values() -> None:
    ones = torch.ones(2, 3)
    one = {"a": ones, "b": torch.tensor(2)}
    assert model_digest(one) == model_digest({"b": torch.tensor(2), "a": ones.clone()})
    others = [{"a": ones.T, "b": torch.tensor(2)}, {"a": ones.double(), "b": torch.tensor(2)}, {"a": ones}]
    others += [{"c": ones, "b": torch.tensor(2)}, {"a": ones, "b": torch.tensor(3)}]
    assert len({model_digest(values) for values in (one, *others)}) == 6
    assert EvaluateReply(0, 0).digest == ""
