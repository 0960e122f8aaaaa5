"""Validation apart from the test set, the best model, and early stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlama as fl
from fedlama.data.held_rows import hold_out
from fedlama.federation.stopping import BestModel
from tests.evaluation.cases import ENGINES_HERE, drawn, federation, held_out, net
from tests.flower.cases import deployed, in_process

SEEN = [0.5, 0.6, 0.55, 0.6, 0.61, 0.7]


def watched(rule: fl.EarlyStopping | None, scores: list[fl.Score]) -> tuple[int | None, int | None, int]:
    """Return the number of evaluations until the stop, the best round and the count since the last improvement."""
    best = BestModel(rule)
    for at, score in enumerate(scores):
        best.see(at, score, {"w": torch.tensor([float(at)])})
        if best.stopped:
            return at + 1, best.round_index, best.waited
    if best.round_index is not None:
        assert best.values["w"].item() == best.round_index
    return None, best.round_index, best.waited


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, (None, 5, 0)),
        (fl.EarlyStopping(1), (3, 1, 1)),
        (fl.EarlyStopping(2), (4, 1, 2)),  # the second 0.6 is not better than the first
        (fl.EarlyStopping(3), (None, 5, 0)),
        (fl.EarlyStopping(3, min_delta=0.05), (5, 4, 3)),  # 0.61 is the best, but no improvement on 0.6
        (fl.EarlyStopping(4, min_delta=0.05), (None, 5, 0)),
        (fl.EarlyStopping(2, min_delta=0.25), (3, 1, 2)),
    ],
    ids=str,
)
def test_the_count_by_hand(rule: fl.EarlyStopping | None, expected: tuple[int | None, ...]) -> None:
    assert watched(rule, [fl.Score(1.0, {"accuracy": value}, "accuracy", "higher") for value in SEEN]) == expected
    assert watched(rule, [fl.Score(1.0, {"mae": -value}, "mae", "lower") for value in SEEN]) == expected


def test_nan_is_never_an_improvement() -> None:
    nan = fl.Score(math.nan)
    assert watched(fl.EarlyStopping(2), [nan, nan, fl.Score(1.0)]) == (2, None, 2)
    assert watched(fl.EarlyStopping(2), [nan, fl.Score(1.0), nan, fl.Score(0.9)]) == (None, 3, 0)


def test_the_clients_own_validation_sets_decide_together() -> None:
    own = {0: drawn(5, 60), 2: drawn(9, 62)}
    clients = [fl.ClientData(*drawn(8, client), 4, validation=own.get(client)) for client in range(3)]
    together = fl.TestSet.from_clients(clients)
    assert torch.equal(together.x, torch.cat([own[0][0], own[2][0]]))
    assert torch.equal(together.y, torch.cat([own[0][1], own[2][1]]))
    ours, theirs = (
        fl.Federation(net(), clients, fl.FedAvg(2), 16, validation_set=held, early_stopping=fl.EarlyStopping(2)).run()
        for held in (together, fl.TestSet(together.x, together.y))
    )
    assert [record.validation for record in ours.rounds] == [record.validation for record in theirs.rounds]
    assert ours.best is not None
    plain = fl.Federation(net(), clients, fl.FedAvg(2), 16).run()  # without it, the clients' own sets are not used
    assert all(record.validation is None for record in plain.rounds)


def test_validation_sets_that_cannot_be_put_together() -> None:
    def parts(length: int) -> dict[str, torch.Tensor]:
        return {"ids": torch.ones(4, length, dtype=torch.int64), "labels": torch.zeros(4, dtype=torch.int64)}

    clients = fl.DatasetClients([parts(3), parts(4)], 2, validation=[parts(3), parts(4)])
    with pytest.raises(fl.DataError, match=r"the validation sets of the clients have batches of .*pad them to one"):
        fl.TestSet.from_clients(clients)
    with pytest.raises(
        fl.DataError, match=r"no client has a test set of its own; give ClientData\(..., test=\(x, y\)\)"
    ):
        fl.TestSet.from_clients([fl.ClientData(*drawn(8, 0), 4)], "test")


def test_the_validation_set_decides_and_the_test_set_never() -> None:
    result = federation().run()
    seen = [record.validation for record in result.rounds if record.validation is not None]
    ranks = [score.rank for score in seen]
    assert ranks == [0.3, 0.325, 0.325, 0.3]  # of 40 samples, after rounds 1, 3, 5 and 7
    assert result.stopped == "early stopping: no improvement in 2 evaluations (best accuracy in round 3)"
    assert len(result.rounds) == 8
    assert result.best is not None
    assert (result.best.round_index, result.best.score.accuracy) == (3, 0.325)
    other = federation(test_set=held_out(77)).run()
    assert (other.stopped, other.best and other.best.round_index) == (result.stopped, result.best.round_index)
    assert other.score != result.score
    without = federation(early_stopping=None).run()
    assert (len(without.rounds), without.stopped) == (20, None)


def test_the_best_model_is_the_one_that_was_scored() -> None:
    one = federation(early_stopping=None)
    result = one.run()
    assert result.best is not None
    assert one.validation_set is not None
    net = one.engine_setup().model
    net.load_state_dict(dict(result.best.model))
    assert one.validation_set.score(net, one.task) == result.best.score
    at = result.best.round_index
    shorter = replace(one, local_steps=2 * (at + 1)).run()
    if (at + 1) % 2 == 0:  # the end of a cycle, where all layers are in sync
        assert all(torch.equal(value, shorter.model[name]) for name, value in result.best.model.items())


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_every_engine_stops_after_the_same_round(engine: str) -> None:
    one, expected = federation(engine).run(), federation("loop").run()
    assert (one.stopped, len(one.rounds)) == (expected.stopped, len(expected.rounds))
    assert one.best is not None
    assert expected.best is not None
    assert one.best.round_index == expected.best.round_index
    for name, value in expected.best.model.items():
        torch.testing.assert_close(one.best.model[name], value, rtol=1e-4, atol=1e-5)


def test_a_deployment_stops_after_the_same_round(tmp_path: Path) -> None:
    expected = federation().run()
    one = deployed(federation(), in_process(federation(), tmp_path)).to_end([])
    assert (one.stopped, len(one.rounds)) == (expected.stopped, len(expected.rounds))
    assert one.best is not None
    assert expected.best is not None
    assert all(torch.equal(one.best.model[name], value) for name, value in expected.best.model.items())
    assert [r.validation for r in one.rounds] == [r.validation for r in expected.rounds]


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_a_run_resumes_bit_for_bit_from_every_round(engine: str) -> None:
    one = federation(engine)
    whole = one.run()
    assert whole.best is not None
    first = fl.Run(one)
    before: list[fl.RoundRecord] = []
    for _ in whole.rounds:
        before.append(first.advance())
        second = fl.Run(one)
        second.load_state_dict(first.state_dict(), before)
        result = second.to_end([], before)
        assert result.best is not None
        assert (len(result.rounds), result.stopped) == (len(whole.rounds), whole.stopped)
        assert (result.best.round_index, result.best.score) == (whole.best.round_index, whole.best.score)
        for found, wanted in ((result.best.model, whole.best.model), (result.model, whole.model)):
            assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    "forged",
    [{"waited": -1}, {"waited": 1.5}, {"round": 99}, {"round": None}, {"round": 0}, {"reference": "x"}],
    ids=str,
)
def test_a_forged_count_is_refused(forged: dict[str, Any]) -> None:
    first = fl.Run(federation())
    before = [first.advance() for _ in range(4)]
    snapshot = first.state_dict()
    best: Any = snapshot.facts["best"]
    broken = replace(snapshot, facts={**snapshot.facts, "best": {**best, **forged}})
    with pytest.raises(fl.DataError, match="the checkpoint of round 4 is not one of this run"):
        fl.Run(federation()).load_state_dict(broken, before)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation_set": None}, "early_stopping is set, but there is no validation set, and the test set must not"),
        ({"evaluate": "best_client"}, "evaluate is 'best_client', but a validation set scores the global model"),
        ({"validation_set": [1]}, "validation_set is 'list', expected one fedlama.TestSet"),
    ],
)
def test_what_cannot_decide_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(fl.ConfigError, match=sentence):
        federation(**changes).run()
    with pytest.raises(fl.ConfigError, match="patience is 0, expected 1 or more"):
        fl.EarlyStopping(0)


def test_rows_held_out_by_hand() -> None:
    rows = [np.arange(10), np.arange(10, 15), np.arange(15, 19)]
    kept, held = hold_out(rows, 0.25, seed=3)
    assert [len(mine) for mine in held] == [2, 1, 1]
    for all_rows, left, taken in zip(rows, kept, held, strict=True):
        assert sorted([*left, *taken]) == list(all_rows)
    again = hold_out(rows, 0.25, seed=3)
    assert [mine.tolist() for mine in again[1]] == [mine.tolist() for mine in held] == [[6, 9], [12], [17]]
    assert [mine.tolist() for mine in hold_out(rows[:2], 0.25, seed=3)[1]] == [[6, 9], [12]]
    assert hold_out(rows, 0.25, seed=3, purpose="test")[1][0].tolist() == [1, 7]
    assert len(hold_out([np.arange(100)], 0.29, seed=0)[1][0]) == 29
    with pytest.raises(fl.ConfigError, match="which takes 0 rows of each client"):
        hold_out(rows, 0.05, seed=3)
    with pytest.raises(fl.ConfigError, match="expected 0 or more and below 1"):
        hold_out(rows, 1.0, seed=3)
