"""Mistakes are reported on standard error, one problem per line, all at once, with the nearest names; exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.call import SMALL, refused


def test_all_problems_at_once() -> None:
    problems = refused(
        *("compare", "digits", "sed=1", "local_steps=0", "engine=lop", "weighting=equl", "name=a/b"),
        *("strategy.cutof=printed", "solver.momentum=1.5", "solver.learning_rate=-1", "solver.velocity=5"),
        *("model.hidden=64", "sampler.name=uniform", "codec.name=float61", "partition.clients=0"),
    )
    assert problems == [
        "unknown key 'sed'; did you mean 'seed'?",
        "weighting is 'equl': input should be 'samples', 'equal' or 'fednova'; change it",
        "Settings: local_steps is 0, expected 1 or more; use a larger number",
        "name is 'a/b', but it names a folder; use up to 100 letters, digits, '-', '_' and '.'",
        "engine is 'lop'; did you mean 'loop'?",
        "Dirichlet: clients is 0, expected 1 or more; use a larger number",
        "model.hidden is 64: input should be a valid tuple; change it",
        "unknown key 'strategy.cutof'; did you mean 'cutoff'?",
        "solver.velocity is 5: input should be 'gradient' or 'step'; change it",
        "SGD: learning_rate is -1.0, expected 0 or more; use a larger number",
        "SGD: momentum is 1.5, expected a number in [0, 1); use one in this range",
        "sampler.active is missing; give it a value",
        "codec.name is 'float61'; did you mean 'float16'?",
    ]


def test_settings_that_are_each_of_the_right_type_are_told_together() -> None:
    problems = refused("run", "local_steps=0", "batch_size=0", "engine=lop", "evaluate_every=0", "name=a/b")
    assert problems == [
        "Settings: local_steps is 0, expected 1 or more; use a larger number",
        "Settings: batch_size is 0, expected 1 or more; use a larger number",
        "Settings: evaluate_every is 0, expected 1 or more; use a larger number",
        "name is 'a/b', but it names a folder; use up to 100 letters, digits, '-', '_' and '.'",
        "engine is 'lop'; did you mean 'loop'?",
    ]


def test_a_budget_that_is_no_multiple_is_told_with_the_others() -> None:
    momentum, budget = refused("plan", "local_steps=13", "solver.momentum=2")
    assert momentum == "SGD: momentum is 2.0, expected a number in [0, 1); use one in this range"
    assert budget.startswith("local_steps is 13, but a round of fedlama lasts 6 local steps and the budget must be")
    assert budget.endswith("a whole number of rounds; choose 12 or 18")


def test_a_key_of_another_choice_names_that_choice() -> None:
    (problem,) = refused("plan", "sampler.active=3")
    assert problem == (
        "unknown key 'sampler.active': sampler 'all' has no such key; it belongs to sampler.name = "
        "'power-of-choice' or 'uniform' or 'weighted'"
    )


@pytest.mark.parametrize(
    ("key", "meant"), [("clients", "'partition.clients'"), ("momentum", "'solver.momentum'"), ("lcal_steps", "'local_")]
)
def test_a_key_without_its_section_names_the_section(key: str, meant: str) -> None:
    (problem,) = refused("plan", f"{key}=1")
    assert f"did you mean {meant}" in problem


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("digit", "the experiment is 'digit'; did you mean 'digits'?"),
        ("", "the experiment is ''; known are: cifar10-resnet20, digits, "),
        ("x" * 5000, "(5002 characters); known are"),
        ("nowhere.toml", "nowhere.toml cannot be read (No such file or directory)"),
        ("/", "the experiment is '/'"),
        ("../digits", "the experiment is '../digits'"),
    ],
)
def test_unknown_experiment(name: str, part: str) -> None:
    (problem,) = refused("run", name)
    assert part in problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"seed = = 3", "is not valid TOML: Invalid value (at line 1, column 8)"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"seed = " + b"[" * 20_000, "cannot be read (maximum recursion depth"),
        (b"[[strategy]]\nname = 'fedavg'", "strategy is [{'name': 'fedavg'}], expected a table"),
        (b"strategy = 'fedavg'", "strategy is 'fedavg', expected a table; write [strategy] with name = '...'"),
        (b"seed = 1979-01-01", "seed is datetime.date(1979, 1, 1): input should be a valid integer"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    (problem,) = refused("run", file)
    assert part in problem


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").mkdir()
    (problem,) = refused("plan", tmp_path / "mine.toml")
    assert "cannot be read (Is a directory); give the path of a TOML file" in problem


@pytest.mark.parametrize("experiment", ["cifar10-resnet20", "mnist-writers", "tinyshakespeare"])
def test_missing_data(tmp_path: Path, experiment: str) -> None:
    (problem,) = refused("compare", experiment, f"data.path={tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in problem
    (problem,) = refused("compare", experiment, f"data.path={tmp_path}")
    assert str(tmp_path) in problem


def test_more_active_clients_than_clients() -> None:
    (problem,) = refused("run", *SMALL, "sampler.name=uniform", "sampler.active=5")
    assert problem == (
        "UniformSampler: active is 5, but there are only 4 clients; choose 4 or fewer, or give more clients"
    )


def test_a_comparison_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (problem,) = refused("compare", *SMALL, "local_steps=15", "--out", tmp_path)
    assert problem.startswith("local_steps is 15, but a round of fedavg lasts 6 local steps")
    assert not list(tmp_path.iterdir())


def test_misfits_with_the_model_are_told_together() -> None:
    table = 'strategy.intervals={"dense0.weigth" = 2, "dense*.bia" = 3}'
    device, *names = refused("run", "strategy.name=fixed", table, "device=abacus")
    assert device.startswith("device is 'abacus', but torch cannot compute there (")
    assert names == [
        "FixedIntervals: 'dense0.weigth' matches no layer; did you mean 'dense0.weight'?",
        "FixedIntervals: 'dense*.bia' matches no layer; did you mean 'dense1.bias'?",
    ]
