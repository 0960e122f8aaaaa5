"""The tables of all methods: what the page shows is what the benchmark prints, and every method of it is valid."""

from __future__ import annotations

import json

import pytest
from benchmarks import fedlamb
from benchmarks.methods import filled, measured, methods_of, run_stages
from benchmarks.methods_list import ALONE, EXPENSIVE, METHODS, PERSONAL, PERSONAL_SETTINGS, SETTINGS, THEN, TUNED
from benchmarks.methods_tables import all_methods, combinations, personal_models

from fedlama.experiment import prepare, read, resolve
from tests.docs.blocks import DOCS, ROOT


def test_the_page_shows_the_stored_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert all_methods(rows) in page
    assert combinations(rows) in page
    assert personal_models(rows) in page


def test_every_method_is_valid_in_every_setting() -> None:
    assert METHODS.keys() >= EXPENSIVE | THEN.keys()
    assert PERSONAL.keys() >= TUNED
    for setting, lines in (SETTINGS | PERSONAL_SETTINGS).items():
        lines = [*lines, "data.path=."]
        second = {"alone": ALONE} if setting in PERSONAL_SETTINGS else THEN
        for name, more in {**methods_of(setting), **second}.items():
            if name == "2 bits" and "sampler.name=uniform" in lines:
                continue  # refused without feedback
            resolve(read("digits", [*lines, *filled(lines, more)]))


def test_a_second_run_begins_with_the_model_of_the_first_one_and_fine_tuning_sends_nothing_up() -> None:
    lines = ["rounds=1", "evaluate_clients=own", "client_test_share=0.2", "local_work.epochs=1", "model.hidden=[4]"]
    first = ["strategy.name=fedavg", "solver.learning_rate=0.05"]
    material = prepare(resolve(read("digits", lines)))
    results = run_stages(lines, [first, [*first, "solver.learning_rate=0.0"]], material)
    row, whole = measured(results, True), measured(results, False)
    assert results[1].score == results[0].score  # as a rate of 0 keeps the model
    assert row["accuracy"] == pytest.approx(100 * results[0].score.accuracy)
    assert row["up"] == whole["up"] / 2 == row["down"] / 2
    values = [100 * score.value for score in results[1].client_scores.own_model.values()]
    assert row["worst"] == min(values)
    assert row["worst"] < row["pooled"] < max(values)


def test_a_table_says_what_was_refused_and_what_diverged() -> None:
    row = {"setting": "writers", "seed": 0, "up": 1.0, "down": 2.0}
    rows = [
        {**row, "method": "FedAvg", "accuracy": 90.0},
        {**row, "method": "FedAvg", "accuracy": 92.0, "seed": 1},
        {**row, "method": "FedLAMA", "accuracy": 80.0},
        {**row, "method": "FedLAMA", "failed": "round 1: w is not finite", "seed": 1},
        {**row, "method": "2 bits", "failed": "bits is 2, expected 4"},
    ]
    table = all_methods(rows)
    assert "| 1 | FedAvg | 91.0 ± 1.4 | 3.0 | - | - |" in table
    assert "| FedLAMA | diverged in 1 of 2 | - | - | - |" in table
    assert "| 2 bits | refused | - | - | - |" in table


def test_every_run_of_fed_lamb_is_valid_and_its_table_has_the_first_round_that_was_enough() -> None:
    for setting, solver, rate in fedlamb.RUNS:
        lines = [*fedlamb.lines_of(setting, ROOT), *fedlamb.SOLVERS[solver], f"solver.learning_rate={rate}"]
        assert resolve(read("digits", lines)).settings.weighting == "equal"
    run = {"setting": "mnist", "solver": "Fed-LAMB", "rate": 0.1}
    rows = [{**run, "accuracies": [50.0, 90.0]}, {**run, "accuracies": [20.0], "failed": "not finite", "rate": 1.0}]
    assert "| mnist | Fed-LAMB | 0.1 | 2 | 2 | - |" in fedlamb.table(rows)
    assert "| mnist | Fed-LAMB | 1 | - | 1 | diverged in round 2 |" in fedlamb.table(rows)
