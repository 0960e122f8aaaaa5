"""Every task on every engine, and in a deployment, equals the loop engine."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import fedlama as fl
from fedlama.engines import ENGINES
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.tasks.cases import CASES, X, federation

OTHERS = sorted(set(ENGINES) - {"loop"})


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """The distributed engine with a single process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def same(result: fl.Result, expected: fl.Result) -> None:
    """Compare losses, scores and models."""
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-5)
        assert (ours.score is None) is (theirs.score is None)
        if ours.score and theirs.score:
            assert (ours.score.primary, ours.score.direction) == (theirs.score.primary, theirs.score.direction)
            assert ours.score.loss == pytest.approx(theirs.score.loss, rel=2e-5)
            assert ours.score.metrics == pytest.approx(theirs.score.metrics, rel=1e-4, abs=1e-6)
    for name, value in expected.model.items():
        torch.testing.assert_close(result.model[name], value, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", [*OTHERS, "chunks", "compiled off"])
def test_equals_loop(name: str, engine: str) -> None:
    options: dict[str, Any] = {"chunks": fl.Stacked(chunk=2), "compiled off": fl.Stacked(threads=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every task is vectorised over clients
        ours = federation(name, engine=options.get(engine, engine)).run()
    theirs = federation(name, engine="loop").run()
    same(ours, theirs)
    assert theirs.rounds[-1].loss < theirs.rounds[0].loss
    assert theirs.score is not None
    assert all(value == value for value in theirs.score.metrics.values())


@pytest.mark.parametrize("name", CASES)
def test_a_deployment_has_the_same_bits(name: str, tmp_path: Path) -> None:
    given = federation(name)
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_has_the_same_bits(name: str) -> None:
    whole = federation(name).run()
    first = fl.Run(federation(name))
    records = [first.advance() for _ in range(2)]
    second = fl.Run(federation(name, engine="loop"))
    second.load_state_dict(first.state_dict(), records)
    assert_same_bits(second.to_end([], records), whole)


def test_the_kernels_take_plain_cross_entropy_and_nothing_else() -> None:
    def label(task: fl.Task, **changes: Any) -> str:  # noqa: ANN401
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        run = fl.Run(federation("classification", engine="stacked", task=task, model=model, **changes))
        return str(getattr(run.engine, "label", ""))

    class Shifted(fl.Classification):
        """A subclass with a loss of its own."""

        def loss(self, output: Any, batch: Any) -> torch.Tensor:  # noqa: ANN401
            return super().loss(output, batch) + output.square().mean()

    plain = label(fl.Classification())
    assert plain.startswith(("NumbaTrainer", "TorchChainTrainer"))
    for task in (Shifted(), fl.Classification(label_smoothing=0.1), fl.Classification(class_weights=(1.0, 1.0, 2.0))):
        assert label(task).startswith("VmapTrainer"), task
    ours, theirs = (federation("classification", engine=engine, task=Shifted()).run() for engine in ("auto", "loop"))
    same(ours, theirs)
    assert theirs.rounds[0].loss != federation("classification").run().rounds[0].loss


def test_objective_is_short_for_a_task_of_a_function() -> None:
    loss = nn.functional.mse_loss
    by_task, by_objective = (
        federation("functions", **settings).run() for settings in ({}, {"task": fl.Classification(), "objective": loss})
    )
    assert_same_bits(by_objective, by_task)
    plain = federation("classification", objective=nn.functional.cross_entropy)
    assert plain.task == fl.FunctionTask(nn.functional.cross_entropy)
    assert_same_bits(plain.run(), federation("classification").run())
    assert plain.objective is None
    assert replace(plain, seed=3).task == plain.task
    with pytest.raises(fl.ConfigError, match="task is 'regression' and objective is given too"):
        fl.Federation(nn.Linear(6, 1), [], fl.FedAvg(1), 1, task=fl.Regression(), objective=loss)


def test_two_functions_are_a_task() -> None:
    from torchmetrics import MeanAbsoluteError

    task = fl.FunctionTask(
        nn.functional.l1_loss, lambda: {"mae": MeanAbsoluteError()}, primary="mae", direction="lower"
    )
    score = federation("functions", task=task).run().score
    assert score is not None
    assert score.metrics["mae"] == pytest.approx(score.loss, rel=1e-5)
    assert (score.value, score.direction, score.accuracy, score.percent) == (score.metrics["mae"], "lower", None, None)


def test_the_best_client_is_the_one_with_the_lowest_error() -> None:
    changes = {"evaluate": "best_client", "keep_client_models": True}
    record = federation("regression", sampler=fl.AllClients(), **changes).run().rounds[-1]
    model = nn.Linear(6, 1)
    scores = []
    for client in record.cohort[::4]:
        model.load_state_dict(dict(record.client_models[client]))
        scores.append(fl.TestSet(X, X.sum(1), batch_size=25).score(model, fl.Regression(criterion="huber")))
    assert record.score is not None
    assert record.score.value == min(score.value for score in scores)


def test_torchmetrics_is_imported_where_it_is_used_alone() -> None:
    program = (
        "import sys, torch, fedlama as fl; "
        "data = torch.randn(8, 2), torch.arange(8) % 2; "
        "clients, test_set = [fl.ClientData(*data, 4)], fl.TestSet(*data); "
        "fl.Federation(torch.nn.Linear(2, 2), clients, fl.FedAvg(1), 1, test_set=test_set).run(); "
        "sys.exit('torchmetrics' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
