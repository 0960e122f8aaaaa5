"""Personal models: heads that clients blend with their own, on every engine, with cohorts, absences and resuming."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.choices.personal import OWN_SHARE
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.engines.api import LOCAL_VALUES
from fedlama.engines.distributed import DistributedEngine
from fedlama.federation.presets import authors
from tests.engines.cases import assert_same, clients, federation, network, run
from tests.engines.test_client_state import OneAfterAnother
from tests.resume.test_exact import taken_apart

ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(share=2), fl.Auto()]
HEAD = fl.tagged(fl.by_module(network(), statistics="local"), head=["4"])


def with_sets() -> list[fl.ClientData]:
    """Clients with validation and test sets of two samples each."""
    source = clients(sizes=(14, 12, 16, 14, 9))
    parts = [source.x[torch.as_tensor(rows)].float() / 128 - 1 for rows in source.rows]
    labels = [source.y[torch.as_tensor(rows)] for rows in source.rows]
    return [
        fl.ClientData(x[4:], y[4:], 4, test=(x[:2], y[:2]), validation=(x[2:4], y[2:4]))
        for x, y in zip(parts, labels, strict=True)
    ]


FLAYER: dict[str, Any] = {
    "clients": with_sets(),
    "strategy": fl.FedAvg(2),
    "solver": fl.LayerRates(0.05),
    "codec": fl.LayerMask(),
    "aggregator": fl.ElementMean(),
    "layers": HEAD,
    "personal": fl.Personal(),
    "evaluate_clients": "own",
}
CHOICES: dict[str, dict[str, Any]] = {
    "all clients": {"sampler": fl.AllClients()},
    "cohorts": {},
    "absences": {"availability": fl.RandomAbsence(away=0.2, dies=0.1), "sampler": fl.AllClients()},
    "sgd, whole uploads": {"solver": fl.SGD(0.05, momentum=0.9), "codec": fl.Float32(), "aggregator": fl.Mean()},
    "a number": {"personal": fl.Personal(own_share=0.3, head_epochs=0.5)},
    "the test set": {"personal": fl.Personal(accuracy_from="test", head_epochs=0)},
    "epochs": {"local_work": fl.LocalWork(epochs=1.0)},
    "cyclic": {"strategy": fl.Cyclic(2), "local_steps": 16},
    "fedluar": {"strategy": fl.FedLUAR(2, 1)},
}


@functools.cache
def of_loop(choice: str) -> fl.Result:
    """Return the result of the loop engine, computed once for all engines."""
    return run("loop", **(FLAYER | CHOICES[choice]))


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("choice", CHOICES)
def test_engines_agree(engine: Any, choice: str) -> None:  # noqa: ANN401
    ours, expected = run(engine, **(FLAYER | CHOICES[choice])), of_loop(choice)
    assert_same(ours, expected, 1e-4)
    for record, theirs in zip(ours.rounds, expected.rounds, strict=True):
        assert record.client_scores is not None
        assert theirs.client_scores is not None
        assert record.client_scores.own_model.keys() == theirs.client_scores.own_model.keys()
        assert theirs.client_scores.own_model


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
@pytest.mark.parametrize("choice", ["cohorts", "absences", "sgd, whole uploads"])
def test_a_resumed_run_goes_on_bit_for_bit(engine: Any, choice: str) -> None:  # noqa: ANN401
    given = federation(engine, **(FLAYER | CHOICES[choice]))
    whole, result = given.run(), taken_apart(given)
    assert [record.loss for record in result.rounds] == [record.loss for record in whole.rounds]
    assert [record.client_scores for record in result.rounds] == [record.client_scores for record in whole.rounds]
    assert result.ledger.transfers == whole.ledger.transfers
    for client, values in whole.rounds[-1].client_models.items():
        assert all(torch.equal(result.rounds[-1].client_models[client][n], value) for n, value in values.items())


class Sum(nn.Module):
    """A body and a head, one number each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.head = nn.Parameter(torch.full((), 8.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.double() * (self.body + self.head)


def by_hand(engine: Any, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """Two clients that push both numbers down, client 0 by 1 in a step of rate 1 and client 1 by 10."""
    settings: dict[str, Any] = {
        "layers": fl.tagged(fl.by_tensor(Sum()), head=["head"]),
        "personal": fl.Personal(own_share=0.25, head_rate_factor=0.5),
    }
    return fl.Federation(
        model=Sum(),
        clients=[fl.ClientData(torch.full((1, 1), push).double(), torch.zeros(1, 1), 1) for push in (1.0, 10.0)],
        strategy=fl.FedAvg(1),
        local_steps=2,
        solver=fl.SGD(1.0),
        objective=lambda output, target: output.mean() + 0 * target.sum(),
        engine=engine,
        **(settings | changes),
    )


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_two_rounds_by_hand(engine: Any) -> None:  # noqa: ANN401
    """Round 0: both begin at the head 8; half a step, then a whole one: 6.5 and -7, whose mean is -0.25.

    Round 1: the heads begin at 0.25 x 6.5 - 0.75 x 0.25 = 1.4375 and 0.25 x -7 - 0.1875 = -1.9375, and end 1.5 and 15
    lower, at -0.0625 and -16.9375. The bodies are averaged: -5.5, then -11.
    """
    live = fl.Run(by_hand(engine))
    live.advance()
    assert float(live.values["head"]) == -0.25
    result = live.to_end([])
    assert float(result.model["head"]) == pytest.approx(-8.5, rel=1e-12)
    assert float(result.model["body"]) == -11.0
    assert [float(live.engine.client_values(client)["head"]) for client in (0, 1)] == [-0.0625, -16.9375]


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_clients_outside_of_the_cohort_keep_their_heads(engine: Any) -> None:  # noqa: ANN401
    """By hand: client 0 trains in round 0 (to 6.5), client 1 in round 1; the head of client 0 stays 6.5."""
    live = fl.Run(by_hand(engine, sampler=OneAfterAnother()))
    live.to_end([])
    kept = live.engine.state_dict().inactive[0][LOCAL_VALUES]
    assert kept.keys() == {"head", OWN_SHARE}
    assert float(kept["head"]) == 6.5
    # Client 1 began with its own initial head 8: 0.25 x 8 + 0.75 x 6.5 = 6.875, less 15.
    assert float(live.engine.client_values(1)["head"]) == -8.125


def test_without_its_parts_it_is_fedavg_with_local_heads() -> None:
    parts = FLAYER | {"solver": fl.SGD(0.05), "codec": fl.Float32(), "aggregator": fl.Mean()}
    ours = run("loop", **parts | {"personal": fl.Personal(own_share=1.0, head_epochs=0)})
    layers = fl.tagged(fl.by_module(network(), statistics="local"), local=["4"])
    expected = run("loop", **parts | {"personal": None, "layers": layers, "evaluate_clients": "none"})
    for record, theirs in zip(ours.rounds, expected.rounds, strict=True):
        for client, values in theirs.client_models.items():
            assert torch.equal(record.client_models[client]["4.weight"], values["4.weight"])


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_share_is_the_accuracy_on_the_clients_own_samples(part: Any) -> None:  # noqa: ANN401
    given = federation("loop", **(FLAYER | {"personal": fl.Personal(accuracy_from=part), "sampler": fl.AllClients()}))
    live = fl.Run(given)
    record = live.advance()
    shares = {client: float(live.engine.client_values(client)[OWN_SHARE]) for client in record.cohort}
    assert set(shares.values()) <= {0.0, 0.5, 1.0}  # of two samples
    assert record.client_scores is not None
    tested = {client: score.accuracy for client, score in record.client_scores.own_model.items()}
    assert (tested == shares) is (part == "test")


def test_the_ledger_has_the_map() -> None:
    """By hand: of 72, 4, 4, 720 and 5 numbers 8, 1, 2, 720 and 5 are sent, the first three tensors with maps."""
    transfers = run("loop", **FLAYER).ledger.transfers
    (up,) = {sum(item.payload_bytes for item in each.payloads) for each in transfers if each.direction == "up"}
    assert up == (9 + 4 * 8) + (1 + 4 * 1) + (1 + 4 * 2) + 4 * 720 + 4 * 5
    (down,) = {sum(item.payload_bytes for item in each.payloads) for each in transfers if each.direction == "down"}
    assert down == 4 * (72 + 4 + 4 + 720 + 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": fl.by_module(network(), statistics="local")}, "no layer is tagged 'head'; name the output layers"),
        ({"strategy": fl.FedLAMA(2, 2)}, "fedlama synchronises layers over several rounds; use 'fedavg'"),
        ({"solver": fl.Scaffold(0.1)}, "solver 'scaffold' counts how far clients moved"),
        ({"weighting": "fednova", "solver": fl.SGD(0.1)}, "weighting 'fednova' counts how far clients moved"),
        ({"clients": clients(), "evaluate_clients": "none"}, "set client_validation_share=0.2 in an experiment file"),
        ({"task": fl.Regression(), "evaluate_clients": "none"}, "set personal.own_share to a number"),
        ({"evaluate": "best_client"}, "set evaluate_clients='own'"),
        ({"personal": 0.5}, "use Personal"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = FLAYER | {"codec": fl.Float32(), "aggregator": fl.Mean()}
    with pytest.raises(fl.ConfigError, match=message):
        federation("loop", **(plain | changes)).run()


def test_an_engine_that_may_not_keep_heads_is_refused() -> None:
    class Own:
        holds_clients = True
        ends_rounds = True

        def __init__(self, setup: Any) -> None:  # noqa: ANN401
            del setup

    plain = FLAYER | {"codec": fl.Float32(), "aggregator": fl.Mean()}
    with pytest.raises(fl.ConfigError, match="Own has no class attribute personalises"):
        federation(Own, **plain).run()
    assert not getattr(DistributedEngine, "personalises", False)


def test_central_training_has_no_heads_of_its_own() -> None:
    assert replace(fl.pooled(federation("loop", **FLAYER)), rounds=1, local_steps=None).run().ledger.transfers == []


def test_the_authors_preset_sets_their_switches() -> None:
    given = authors(federation("loop", **(FLAYER | {"weighting": "equal"})))
    assert given.personal == fl.Personal(accuracy_from="test")
    assert given.codec == fl.LayerMask(one_by_one="mask")
    assert given.aggregator == fl.ElementMean(zeros="left-out")
    assert [layer.name for layer in given.full_labelling() if layer.tag == "head"] == ["4.weight", "4.bias"]
    assert not any(spec.name.endswith("running_mean") for layer in given.labelling() for spec in layer.tensors)
    assert (given.weighting, given.evaluate, given.evaluate_clients) == ("samples", "global", "own")
    given.run()
