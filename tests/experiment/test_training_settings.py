"""Solvers and their options in experiment files, overrides and methods; the names of run folders stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama import AdamW, Clipping, ConfigError, ParameterGroup, Schedule, load_experiment

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
