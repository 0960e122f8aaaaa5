"""Solvers and their options in experiment files, overrides and methods; the names of run folders stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama import (
    AdamW,
    Clipping,
    ConfigError,
    FedAvg,
    ParameterGroup,
    Run,
    RunOptions,
    Schedule,
    load_experiment,
    load_run,
)
from fedlama.core.budget import GivenBudget
from fedlama.core.local_work import LocalWork
from fedlama.experiment import assemble, prepare
from fedlama.experiment.methods import parse_methods, written
from fedlama.experiment.variants import variant_of
from fedlama.runs.execute import execute, plan_runs
from fedlama.runs.verify import verify

FILE = """
[solver]
name = "adamw"
learning_rate = 0.01
weight_decay = 0.1
clipping = { norm = 1.0 }

[solver.schedule]
decay = "cosine"
warm_up = 20
end = 0.1

[[solver.groups]]
layers = "network.0.*"
frozen = true

[[solver.groups]]
layers = "*.bias"
weight_decay = 0.0
"""


def test_a_solver_with_all_options_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    experiment = load_experiment(str(path))
    assert experiment.solver == AdamW(
        0.01,
        weight_decay=0.1,
        schedule=Schedule("cosine", warm_up=20, end=0.1),
        clipping=Clipping(norm=1.0),
        groups=(ParameterGroup("network.0.*", frozen=True), ParameterGroup("*.bias", weight_decay=0.0)),
    )
    assert load_experiment(str(path)).digest() == experiment.digest()


def test_overrides_reach_into_the_options() -> None:
    solver = load_experiment(
        "digits",
        [
            "solver.name=adam",
            "solver.learning_rate=0.002",
            "solver.schedule.decay=polynomial",
            "solver.clipping.value=0.5",
            'solver.groups=[{layers="*.bias", rate_factor=2}]',
        ],
    ).solver
    assert solver.name == "adam"
    assert solver.schedule == Schedule("polynomial")  # type: ignore[attr-defined]
    assert solver.clipping == Clipping(value=0.5)  # type: ignore[attr-defined]
    assert solver.groups == (ParameterGroup("*.bias", rate_factor=2),)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("solver.schedule.decay=cosin", "solver.schedule.decay is 'cosin'"),
        ("solver.schedule.warmup=3", "warmup"),
        ("solver.clipping.norm=0", "Clipping: norm is 0"),
        ("solver.clipping=1", "solver.clipping is 1"),
        ("solver.groups=[{frozen=true}]", "solver.groups.0.layers is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits", [override])
    assert words in str(caught.value)


def test_options_at_their_defaults_are_not_written_so_run_folders_keep_their_names() -> None:
    plain = load_experiment("digits")
    assert not {"schedule", "clipping", "groups", "nesterov"} & set(plain.to_json()["solver"])  # type: ignore[call-overload]
    assert load_experiment("digits", ["solver.clipping={}"]).digest() == plain.digest()
    assert load_experiment("digits", ["solver.clipping.norm=1.0"]).digest() != plain.digest()


def test_budgets_and_local_work_in_files_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("rounds = 4\n[local_work]\nepochs = 0.5\nstraggler_share = 0.25\nlimits = { 3 = 2 }\n")
    settings = load_experiment(str(path)).settings
    assert (settings.rounds, settings.local_steps, settings.epochs) == (4, None, None)
    assert settings.local_work == LocalWork(epochs=0.5, straggler_share=0.25, limits={3: 2})
    assert load_experiment(str(path), ["epochs=2"]).settings.budget == GivenBudget(None, None, 2)
    assert load_experiment("digits", ["rounds=3"]).settings.budget == GivenBudget(None, 3, None)
    assert load_experiment("digits", ["local_work.epochs=1"]).settings.local_work == LocalWork(epochs=1)
    with pytest.raises(ConfigError, match="expected exactly one of local_steps, rounds and epochs"):
        load_experiment("digits", ["rounds=3", "epochs=2"])
    with pytest.raises(ConfigError, match=r"unknown key 'local_work\.epoch'"):
        load_experiment("digits", ["local_work.epoch=1"])


def test_the_budget_in_local_steps_keeps_its_run_folder() -> None:
    plain = load_experiment("digits")
    assert not {"rounds", "epochs", "local_work"} & set(plain.to_json())
    assert load_experiment("digits", ["rounds=3"]).digest() != plain.digest()


def test_methods_of_a_comparison_have_the_same_local_steps_and_work_per_step(tmp_path: Path) -> None:
    """A baseline whose rounds are phi times as long does phi times the epochs in a round, and as many local steps."""
    experiment = load_experiment("digits", ["rounds=8", "local_work.epochs=0.5", "local_work.limits={3=2}"])
    runs = plan_runs(experiment, [experiment.strategy, FedAvg(6), FedAvg(24)], tmp_path)
    assert [run.federation.budget.local_steps for run in runs] == [48, 48, 48]
    assert [run.federation.budget.rounds for run in runs] == [8, 8, 2]
    assert [run.federation.local_work.epochs for run in runs] == [0.5, 0.5, 2.0]
    assert [run.federation.local_work.limits for run in runs] == [{3: 2}, {3: 2}, {3: 8}]


def test_unequal_work_is_in_the_run_folder_and_verifies(tmp_path: Path) -> None:
    overrides = ["rounds=4", "local_work.epochs=0.25", "solver.name=adamw", "solver.learning_rate=0.01"]
    experiment = load_experiment("digits", overrides)
    (finished,) = execute(experiment, [experiment.strategy], RunOptions(tmp_path))
    (folder,) = tmp_path.rglob("config.json")
    stored = load_run(folder.parent)
    assert [record.client_steps for record in stored.rounds] == [r.client_steps for r in finished.result.rounds]
    assert stored.rounds[0].client_steps
    assert verify(folder.parent).difference is None


@pytest.mark.parametrize("engine", ["stacked", "workers", "auto"])
def test_mixed_precision_is_a_setting(engine: str) -> None:
    experiment = load_experiment("digits", ["precision=bfloat16", f"engine={engine}", "local_steps=24"])
    result = assemble(experiment, prepare(experiment))
    assert result.describe()["precision"] == "bfloat16"
    label = Run(result).engine.label  # type: ignore[attr-defined]
    assert "bfloat16" in label


@pytest.mark.parametrize("engine", ["loop", "distributed"])
def test_engines_without_mixed_precision_refuse_it(engine: str) -> None:
    experiment = load_experiment("digits", ["precision=bfloat16", f"engine={engine}"])
    with pytest.raises(ConfigError, match="choose engine 'stacked', 'workers' or 'auto'"):
        assemble(experiment, prepare(experiment))


def test_a_method_of_a_comparison_takes_a_solver_with_its_options() -> None:
    text = (
        "fedlama,solver=adamw,solver.schedule.decay=cosine,solver.clipping.norm=1.0,"
        'solver.groups=[{layers="*.bias",weight_decay=0.0}]'
    )
    methods = parse_methods([text, "fedavg,solver=sgd,nesterov=true,momentum=0.9"], "digits", [])
    assert variant_of(methods[0]).choices["solver"] == AdamW(
        0.1,  # as in the experiment
        schedule=Schedule("cosine"),
        clipping=Clipping(norm=1.0),
        groups=(ParameterGroup("*.bias", weight_decay=0.0),),
    )
    assert parse_methods([written(method) for method in methods], "digits", []) == methods
