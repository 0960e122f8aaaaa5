"""Every task on every engine, and in a deployment, equals the loop engine."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

import fedlama as fl
from fedlama.engines import ENGINES
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.tasks.cases import CASES, MASK, TOKENS, X, federation

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


@functools.cache
def of_loop(name: str) -> fl.Result:
    """Return the result of the loop engine, computed once for all engines."""
    return federation(name, engine="loop").run()


@pytest.mark.selection
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", [*OTHERS, "chunks", "compiled off"])
def test_equals_loop(name: str, engine: str) -> None:
    options: dict[str, Any] = {"chunks": fl.Stacked(chunk=2), "compiled off": fl.Stacked(threads=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every task is vectorised over clients
        ours = federation(name, engine=options.get(engine, engine)).run()
    theirs = of_loop(name)
    same(ours, theirs)
    assert theirs.rounds[-1].loss < theirs.rounds[0].loss
    assert theirs.score is not None
    assert all(value == value for value in theirs.score.metrics.values())


@pytest.mark.parametrize("name", CASES)
def test_a_deployment_has_the_same_bits(name: str, tmp_path: Path) -> None:
    given = federation(name)
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


@pytest.mark.selection
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ["loop", *OTHERS])
def test_a_resumed_run_has_the_same_bits(name: str, engine: str) -> None:
    whole = federation(name, engine=engine).run()
    first = fl.Run(federation(name, engine=engine))
    records = [first.advance() for _ in range(2)]
    second = fl.Run(federation(name, engine=engine))
    second.load_state_dict(first.state_dict(), records)
    assert_same_bits(second.to_end([], records), whole)


@pytest.mark.selection
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", OTHERS)
def test_a_run_of_another_engine_is_continued_by_the_loop(name: str, engine: str) -> None:
    first = fl.Run(federation(name, engine=engine))
    records = [first.advance() for _ in range(2)]
    second = fl.Run(federation(name, engine="loop"))
    second.load_state_dict(first.state_dict(), records)
    same(second.to_end([], records), of_loop(name))


def without_targets(name: str) -> tuple[Any, Any]:
    """Return the samples of a case, of which those of client 0 have no label that counts, or no event."""
    case = CASES[name]
    x, y = ({**case.x} if isinstance(case.x, dict) else case.x), case.y
    if name == "language-model":
        x["attention_mask"] = case.x["attention_mask"].clone()
        x["attention_mask"][:17] = 0
    else:
        y = case.y.clone()
        y[:17] = torch.tensor([0.0, 1.0]) if name == "cox" else -100
    return x, y


@pytest.mark.parametrize(
    "name", ["classification", "classification with weights", "binary", "segmentation", "language-model", "cox"]
)
def test_a_client_without_a_target_that_counts_learns_nothing(name: str) -> None:
    x, y = without_targets(name)
    rows = [np.arange(0, 17), np.arange(17, 38), np.arange(38, 60)]
    results, strategy = {}, fl.FixedIntervals(2, {"*": 2})  # after the first round every client has its own model
    for engine in ("loop", *OTHERS):
        clients = fl.TensorClients(x, y, rows, 7)
        given = federation(name, engine=engine, clients=clients, strategy=strategy, keep_client_models=True)
        before = {key: value.clone() for key, value in given.model.state_dict().items()}
        results[engine] = given.run()
        first = results[engine].rounds[0]
        assert first.loss > 0
        for key, value in first.client_models[0].items():
            assert torch.equal(value, before[key]), (engine, key)
        assert any(not torch.equal(value, before[key]) for key, value in first.client_models[1].items())
    for engine in OTHERS:
        same(results[engine], results["loop"])


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


@pytest.mark.filterwarnings("ignore:.*cannot be vectorised:UserWarning")  # its embedding has a padding_idx
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("engine", ["loop", *OTHERS])
def test_a_model_of_transformers(engine: str) -> None:
    """A BERT for two classes of token sequences: every engine equals the loop, and resumes bit for bit."""
    transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=11, max_position_embeddings=8, **sizes)
    batch = {"input_ids": TOKENS, "attention_mask": MASK, "labels": TOKENS[:, 0] % 2}
    rows = [np.arange(0, 17), np.arange(17, 38), np.arange(38, 60)]

    def given(engine: str) -> fl.Federation:
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        changes = {"model": model, "clients": fl.TensorClients(batch, None, rows, 7), "task": fl.HuggingFace()}
        return federation("huggingface", engine=engine, test_set=fl.TestSet(batch, batch_size=25), **changes)

    result = given(engine).run()
    same(result, given("loop").run())
    first = fl.Run(given(engine))
    records = [first.advance() for _ in range(2)]
    second = fl.Run(given(engine))
    second.load_state_dict(first.state_dict(), records)
    assert_same_bits(second.to_end([], records), result)


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
