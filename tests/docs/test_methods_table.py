"""The tables of all methods: what the page shows is what the benchmark prints, and every method of it is valid."""

from __future__ import annotations

import json

from benchmarks.methods import all_methods, combinations, filled
from benchmarks.methods_list import COMBINED, EXPENSIVE, METHODS, SETTINGS

from fedlama.experiment import read, resolve
from tests.docs.blocks import DOCS, ROOT


def test_the_page_shows_the_stored_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert all_methods(rows) in page
    assert combinations(rows) in page


def test_every_method_is_valid_in_every_setting() -> None:
    assert METHODS.keys() >= EXPENSIVE
    for lines in SETTINGS.values():
        lines = [*lines, "data.path=."]
        for name, more in {**METHODS, **COMBINED}.items():
            if name == "2 bits" and "sampler.name=uniform" in lines:
                continue  # refused without feedback
            resolve(read("digits", [*lines, *filled(lines, more)]))


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
