"""Tasks on the command line: shipped ones by name, the user's own by file and plug-in, through every command."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fedlama as fl
from fedlama.flower.apps import experiment_trainer
from fedlama.flower.client.trainer import LocalRound
from tests.cli.call import Called, fedlama
from tests.pictures import drawn

DATA = [
    "digits",
    "data.name=my_tasks.py:curve",
    "model.name=my_tasks.py:net",
    "partition.name=iid",
    "partition.clients=4",
    "strategy.base_interval=2",
    "strategy.increase_factor=2",
    "local_steps=24",
    "batch_size=10",
]
QUIET = ["--track", "none"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's file, which is the current one."""
    shutil.copy(Path(__file__).parent / "my_tasks.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("fedlama_plugin_", "my_tasks")):
            del sys.modules[name]


def good(*words: str) -> Called:
    """Call a command that must work without a word on standard error."""
    called = fedlama(*words)
    assert (called.code, called.err) == (0, ""), called
    return called


def test_a_task_without_accuracy_shows_none_anywhere(folder: Path) -> None:
    words = [*DATA, "task.name=regression", *QUIET]
    shown = good("compare", *words).out
    study = good("compare", *words, "--seeds", "2").out
    by_target = good("compare", *words, "--target", "0.5").out
    content = good("compare", *words, "--json").json
    runs = [Path(run["run_folder"]) for run in content["runs"]]
    links = good("links", str(runs[0]), "--target", "0.5", "--link", "4g").out
    good("report", *map(str, runs))
    page = Path("report.html").read_text(encoding="utf-8")
    tables = page.partition("<body>")[2].partition("<script")[0]
    for text in (shown, study, by_target, links, tables):
        assert not re.search(r"\bacc(uracy)?\b", text.lower()), text
    assert "rmse" in shown
    assert "rmse" in tables
    assert '"measures":[["rmse","test rmse"],["mae","test mae"],["r2","test r2"]]' in page
    assert "MB to rmse 0.5" in by_target
    assert "to rmse 0.5" in links
    assert "has a rmse of" in study
    assert {file.name for file in runs[0].glob("*.png")} == {
        "rmse_steps.png",
        "rmse_rounds.png",
        "rmse_megabytes.png",
        "intervals.png",
    }
    assert {file.name for file in runs[0].parent.glob("*.png")} == {
        *(f"rmse_{x}.png" for x in ("steps", "rounds", "megabytes")),
        "front.png",
    }


def test_a_comparison_by_an_error(folder: Path) -> None:
    with drawn():
        content = good("compare", *DATA, "task.name=regression", *QUIET, "--seeds", "2", "--json").json
    assert (content["primary"], content["direction"], content["target_accuracy"]) == ("rmse", "lower", None)
    last = {run["run_folder"]: run["metrics"]["rmse"] for run in content["runs"]}
    best = []
    for run in content["runs"]:
        assert run["accuracy"] is None
        lines = [json.loads(line) for line in (Path(run["run_folder"]) / "metrics.jsonl").read_text().splitlines()]
        errors = [line["metrics"]["rmse"] for line in lines if line["metrics"]]
        assert errors[-1] == last[run["run_folder"]]
        best.append(min(errors))
    assert max(best) <= content["target"] <= max(best) * 1.02  # every run reaches it
    base, method = content["methods"][0], content["methods"][-1]
    assert base["accuracy_percent"] is None
    assert method["difference_points"] is None
    assert method["metric_difference"]["mean"] == pytest.approx(method["metric"]["mean"] - base["metric"]["mean"])
    assert all(row["seeds_that_reached_target"] == [0, 1] for row in content["methods"])


@pytest.mark.parametrize(
    ("task", "plugin"),
    [(["task.name=my_tasks.py:Pinball"], []), (["task.name=pinball"], ["--plugin", "my_tasks.py"])],
    ids=["by file", "by plug-in"],
)
def test_a_task_of_the_users_own(folder: Path, task: list[str], plugin: list[str]) -> None:
    words = [*DATA, *task, "task.quantile=0.9", *plugin]
    good("plan", *words)
    (run,) = good("run", *words, *QUIET, "--json").json["runs"]
    assert (run["primary"], run["direction"]) == ("mae", "lower")
    assert run["metrics"]["below"] > 0.6
    (again,) = good("run", *words, *QUIET, "--json").json["runs"]
    assert again["reused"] is True
    config = json.loads((Path(run["run_folder"]) / "config.json").read_text())
    assert config["task"]["quantile"] == 0.9
    assert set(config["sources"]) >= {"task"}
    assert fedlama("verify", run["run_folder"]).code == 2
    assert "same to the last bit" in good("verify", run["run_folder"], "--plugin", "my_tasks.py").out
    stored = fl.load_run(Path(run["run_folder"]))
    score = stored.result().score
    assert score is not None
    assert (score.value, score.metrics) == (run["metrics"]["mae"], run["metrics"])


def test_an_interrupted_run_resumes_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", *DATA, "task.name=my_tasks.py:Pinball", *QUIET, "--checkpoint-seconds", "0"]
    (whole,) = good(*words, "--out", "whole", "--json").json["runs"]
    advance, done = fl.Run.advance, []

    def stopping(run: fl.Run) -> fl.RoundRecord:
        if len(done) == 3:
            raise fl.FedlamaError("the power failed; start again")
        done.append(run.round_index)
        return advance(run)

    monkeypatch.setattr(fl.Run, "advance", stopping)
    assert fedlama(*words, "--out", "parts").code == 2
    monkeypatch.setattr(fl.Run, "advance", advance)
    called = fedlama(*words, "--out", "parts", "--json")
    (parts,) = called.json["runs"] if not called.err else [json.loads(called.out)["runs"][0]]
    assert "continuing after round 2" in called.err
    first, second = (load_file(Path(run["run_folder"]) / "model.safetensors") for run in (whole, parts))
    assert all(first[name].equal(second[name]) for name in first)
    assert whole["metrics"] == parts["metrics"]


def test_a_function_is_a_task(folder: Path) -> None:
    losses = []
    for scale in ("1.0", "0.5"):  # with 3 the loss explodes, and a note says so
        (run,) = good("run", *DATA, "task.name=my_tasks.py:scaled", f"task.scale={scale}", *QUIET, "--json").json[
            "runs"
        ]
        assert (run["primary"], run["direction"], run["metrics"], run["accuracy"]) == ("loss", "lower", {}, None)
        losses.append(run["loss"])
    assert losses[0] != losses[1]
    shown = good("run", *DATA, "task.name=my_tasks.py:scaled", *QUIET).out
    assert "acc" not in shown


def test_a_deployment_trains_the_same_task(folder: Path) -> None:
    words = " ".join([*DATA, "task.name=my_tasks.py:Pinball"])
    trainer = experiment_trainer(1, words, folder)
    experiment = fl.load_experiment("digits", words.split()[1:])
    assert experiment.task.name == "pinball"
    assert trainer.samples == 50
    values, state = trainer.initial_state({n: t.detach() for n, t in experiment.model.build(None).state_dict().items()})  # type: ignore[arg-type]
    _, _, loss = trainer.train(values, state, {}, LocalRound(1, 0, 2, 0, frozenset()))
    assert loss > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["task.name=regresion"], "task.name is 'regresion'; did you mean 'regression'"),
        (["task.name=regression", "task.criterion=cubic"], "task.criterion is 'cubic'"),
        (["task.name=regression", "task.primary=accuracy"], "task.primary is 'accuracy'"),
        (["task.name=classification", "task.label_smoothing=1"], "label_smoothing is 1.0, expected 0 or more and less"),
        (["task.name=my_tasks.py:NoLoss"], "which is a class, but not a dataclass"),
        (
            ["task.name=my_tasks.py:Lacking"],
            "the class lacks loss; define it as in fedlama.choices.tasks.base.Task",
        ),
        (["task.gamma=1"], "unknown key 'task.gamma'"),
        (["task.name=classification"], "the labels of the test set have shape (40,) (torch.float32)"),
        (["task.name=cox"], "the targets of the test set have shape (40,), expected (samples, 2)"),
        (["task.name=binary"], "expected 0 or 1 (or -100, which does not count) for the task 'binary'"),
    ],
)
def test_refusals(folder: Path, words: list[str], sentence: str) -> None:
    called = fedlama("run", *DATA, *words, *QUIET)
    assert called.code == 2
    assert len(called.problems) == 1
    assert sentence in called.problems[0]


def test_the_target_is_in_the_unit_of_the_metric(folder: Path) -> None:
    assert "--target is 0.0, expected a percentage above 0" in fedlama("compare", "--target", "0", *QUIET).err
    assert "--target is nan" in fedlama("compare", *DATA, "task.name=regression", "--target", "nan", *QUIET).err
