"""Scores of single clients: of the global model, and of their own models before they are averaged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.cli.tables import comparison
from fedlama.core.client_scores import ClientScores, Spread
from fedlama.data.local_sets import held_out
from fedlama.reporting.html import write_report
from fedlama.runs.execute import RunOptions, execute
from tests.evaluation.cases import ENGINES_HERE, drawn, federation
from tests.experiment.helpers import experiment
from tests.experiment.helpers import federation as assembled


def both(engine: Any = "loop", **changes: Any) -> fl.Federation:  # noqa: ANN401
    settings: dict[str, Any] = {"early_stopping": None, "validation_set": None, "local_steps": 16}
    return federation(engine, **{**settings, "evaluate_clients": "both", **changes})


def scores(values: list[float], direction: Any = "higher") -> list[fl.Score]:  # noqa: ANN401
    return [fl.Score(1.0, {"m": value}, "m", direction) for value in values]


def test_the_spread_by_hand() -> None:
    values = [0.1, 0.9, 0.5, 0.3, 0.7]
    assert Spread.of(scores(values)) == Spread("m", "higher", 0.1, 0.3, 0.5, 0.7, 0.9, 5)
    assert Spread.of(scores(values, "lower")) == Spread("m", "lower", 0.9, 0.7, 0.5, 0.3, 0.1, 5)
    assert Spread.of(scores([0.0, 1.0])) == Spread("m", "higher", 0.0, 0.25, 0.5, 0.75, 1.0, 2)
    assert Spread.of(scores([math.nan, 2.0])) == Spread("m", "higher", 2.0, 2.0, 2.0, 2.0, 2.0, 1)
    assert Spread.of(scores([math.nan])) is None
    assert Spread.of([]) is None
    assert ClientScores({}, {}).spreads() == {}


def linear(weight: float) -> nn.Linear:
    """Return logits (0, weight * x)."""
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0], [weight]]))
    return net


def test_the_own_models_are_scored_before_they_are_averaged() -> None:
    """Two clients with opposite labels: each fits its own data, and the average fits neither."""
    x = torch.ones(4, 1)
    labels = [torch.ones(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)]
    clients = [fl.ClientData(x, y, 4, test=(x, y)) for y in labels]
    one = fl.Federation(
        linear(0.0),
        clients,
        fl.FedAvg(2),
        2,
        solver=fl.SGD(1.0),
        evaluate_clients="both",
        layers=fl.by_module(linear(0.0)),
    )
    (record,) = one.run().rounds
    seen = record.client_scores
    assert seen is not None
    assert {client: score.accuracy for client, score in seen.own_model.items()} == {0: 1.0, 1: 1.0}
    # The two models move by the same amount in opposite directions, so the average is the initial one: logits (0, 0).
    assert [score.loss for score in seen.global_model.values()] == pytest.approx([math.log(2), math.log(2)])
    assert sorted(score.accuracy or 0.0 for score in seen.global_model.values()) == [0.0, 1.0]
    # Two steps of rate 1 from equal logits: the difference of the logits is d = 1, then 1 + 2 (1 - sigmoid(1)).
    difference = 1 + 2 * (1 - 1 / (1 + math.exp(-1)))
    assert [score.loss for score in seen.own_model.values()] == pytest.approx([math.log1p(math.exp(-difference))] * 2)
    assert seen.spreads()["global"].worst == 0.0
    assert record.score is None
    assert record.is_evaluated


def test_only_clients_with_a_test_set_are_scored() -> None:
    result = both(sampler=fl.UniformSampler(2), strategy=fl.FedAvg(2)).run()
    for record in result.rounds:
        if record.client_scores is None:
            assert (record.round_index + 1) % 2
            continue
        assert set(record.client_scores.global_model) == {0, 1, 3}
        assert set(record.client_scores.own_model) == set(record.cohort) - {2}
    assert result.client_scores is result.rounds[-1].client_scores


def test_the_global_scores_are_those_of_the_model_that_is_returned() -> None:
    one = both()
    result = one.run()
    net = one.engine_setup().model
    net.load_state_dict(dict(result.model))
    assert result.client_scores is not None
    for client, score in result.client_scores.global_model.items():
        assert fl.TestSet(*drawn(5 + client, 50 + client)).score(net) == score


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_engines_agree(engine: str) -> None:
    one, expected = both(engine).run(), both("loop").run()
    for ours, theirs in zip(one.rounds, expected.rounds, strict=True):
        assert (ours.client_scores is None) == (theirs.client_scores is None)
        if ours.client_scores is None or theirs.client_scores is None:
            continue
        for mine, other in (
            (ours.client_scores.own_model, theirs.client_scores.own_model),
            (ours.client_scores.global_model, theirs.client_scores.global_model),
        ):
            assert mine.keys() == other.keys() == {0, 1, 3}
            assert [score.loss for score in mine.values()] == pytest.approx([s.loss for s in other.values()], rel=1e-4)


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_scoring_changes_nothing_and_resumes(engine: str) -> None:
    one = both(engine)
    whole, plain = one.run(), both(engine, evaluate_clients="none").run()
    assert all(torch.equal(whole.model[name], value) for name, value in plain.model.items())
    assert [r.score for r in whole.rounds] == [r.score for r in plain.rounds]
    sent = [transfer for transfer in whole.ledger.transfers if transfer.direction != "evaluation-down"]
    assert sent == plain.ledger.transfers
    due = [record.round_index for record in whole.rounds if record.client_scores]
    scored = [transfer for transfer in whole.ledger.transfers if transfer.direction == "evaluation-down"]
    assert [(transfer.round_index, transfer.clients) for transfer in scored] == [(index, (0, 1, 3)) for index in due]
    assert {transfer.payload_bytes for transfer in scored} == {3 * 4 * (6 * 8 + 8 + 8 * 3 + 3)}
    first = fl.Run(one)
    before = [first.advance() for _ in range(5)]
    second = fl.Run(one)
    second.load_state_dict(first.state_dict(), before)
    again = second.to_end([], before)
    assert [r.client_scores for r in again.rounds] == [r.client_scores for r in whole.rounds]


def test_clients_that_are_away_have_no_own_score() -> None:
    result = both(availability=fl.RandomAbsence(away=0.5), strategy=fl.FedAvg(2), evaluate_every=2).run()
    for record in result.rounds:
        assert record.client_scores is not None
        assert set(record.client_scores.own_model) == set(record.answered) - {2}


def test_a_clients_local_values_are_its_own_and_leave_no_trace() -> None:
    base = both(evaluate_clients="none")
    layers = fl.tagged(fl.by_tensor(base.model), local=["2.*"])
    own, plain = both(evaluate_clients="own", layers=layers).run(), both(evaluate_clients="none", layers=layers).run()
    assert [r.score for r in own.rounds] == [r.score for r in plain.rounds]
    run = fl.Run(both(evaluate_clients="own", layers=layers, strategy=fl.FedAvg(2), local_steps=2))
    record = run.advance()
    assert record.client_scores is not None
    assert set(record.client_scores.own_model) == {0, 1, 3}
    with pytest.raises(fl.ConfigError, match=r"evaluate_clients is 'both', but '2\..*' stays on the clients"):
        both(layers=layers).run()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluate_clients": "all"}, "evaluate_clients is 'all', expected 'none', 'global', 'own' or 'both'"),
        (
            {"clients": [fl.ClientData(*drawn(8, 0), 4)], "evaluate_clients": "own"},
            "but the clients have no test sets of their own, and the common test set says nothing of single clients",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fl.ConfigError, match=sentence):
        replace(both(), **changes).run()


SHARED = ("client_test_share=0.25", "evaluate_clients=both", "local_steps=12")


def test_rows_of_the_clients_own_test_sets_are_not_trained_on() -> None:
    plain, held = assembled(), assembled(*SHARED, "validation_share=0.2")
    assert isinstance(plain.clients, fl.TensorClients)
    assert isinstance(held.clients, fl.TensorClients)
    assert held.validation_set is not None
    tested = 0
    for client in range(4):
        batches = held_out(held.clients, client, "test")
        assert batches is not None
        tested += sum(len(batch[1]) for batch in batches)  # type: ignore[index,call-overload]
        assert set(held.clients.rows[client]) < set(plain.clients.rows[client])
    left, all_rows = (sum(map(len, source.rows)) for source in (held.clients, plain.clients))
    assert left + tested + len(held.validation_set) == all_rows


def test_a_run_folder_the_table_and_the_report_show_the_clients(tmp_path: Path) -> None:
    own = experiment(*SHARED)
    finished = execute(own, [own.strategy], RunOptions(tmp_path, quiet=True))
    result = finished[0].result
    folder = Path(str(finished[0].summary["run_folder"]))
    stored = fl.load_run(folder).result()
    assert [r.client_scores for r in stored.rounds] == [r.client_scores for r in result.rounds]
    assert result.client_scores is not None
    spreads = result.client_scores.spreads()
    assert finished[0].summary["client_scores"] == {name: spread.to_json() for name, spread in spreads.items()}
    titles = [getattr(part, "title", None) for part in comparison(finished)]
    assert "on the clients' own test sets" in titles
    page = tmp_path / "report.html"
    write_report([folder], page)
    assert "On the clients&#x27; own test sets, at the last evaluation" in page.read_text()
    (again,) = execute(own, [own.strategy], RunOptions(tmp_path, quiet=True))
    assert again.reused
    assert again.summary["client_scores"] == finished[0].summary["client_scores"]
