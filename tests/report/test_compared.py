"""Runs have the titles that their comparison gave them, in the report and in `fedlama links`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fedlama as fl
from fedlama.analysis.timing import time_runs
from fedlama.reporting.html import report_page
from fedlama.runs.compared import compared_target, compared_titles, diverged_beside, method_order
from tests.cli.call import SMALL, fedlama
from tests.report.test_page import data

METHODS = "fedavg fedavg,solver=sgd,solver.learning_rate=0.02 fedlama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    words = ["--methods", METHODS, "--seeds", "2", "--target", "15", "--out", str(out), "--quiet", "--track", "none"]
    assert fedlama("compare", *SMALL, *words).code == 0
    return out / "digits"


def test_methods_that_differ_in_the_solver_alone_are_two_methods(folder: Path) -> None:
    runs, titles = fl.find_runs(folder), method_order(fl.find_runs(folder))
    assert [titles[0], titles[2]] == ["FedAvg(3)", "FedLAMA(3, 2)"]
    assert titles[1].startswith("FedAvg(3) + sgd(learning_rate=0.02")
    assert list(compared_titles(runs).values()) == [title for title in titles for _ in range(2)]
    content = data(report_page(runs))
    assert [(group["title"], group["runs"]) for group in content["groups"]] == [
        (title, [2 * index, 2 * index + 1]) for index, title in enumerate(titles)
    ]
    assert [method["title"] for method in content["front"]["methods"]] == titles
    names = [timing.name for timing in time_runs(runs, [])]
    assert names[2:4] == [f"{titles[1]} seed 0", f"{titles[1]} seed 1"]
    assert compared_target(runs) == 0.15
    assert content["methods"] == titles
    rows = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["methods"]
    expected = {row["method"]: row["megabytes_to_target"] for row in rows}
    assert content["target"]["text"] == "15 %"
    assert content["target"]["methods"] == {
        title: pytest.approx(sent["mean"], rel=1e-4) for title, sent in expected.items() if sent is not None
    }


def test_without_their_comparison_they_are_numbered(folder: Path) -> None:
    runs = fl.find_runs(folder)
    kept = (folder / "comparison.json").read_text(encoding="utf-8")
    try:
        (folder / "comparison.json").unlink()
        timings = time_runs(runs, [])
    finally:
        (folder / "comparison.json").write_text(kept, encoding="utf-8")
    assert [timing.method for timing in timings][1:4] == ["FedAvg(3)", "FedAvg(3) #2", "FedAvg(3) #2"]
    assert len({timing.name for timing in timings}) == 6


def test_beside_other_runs_titles_name_what_a_comparison_shares(runs: list[Path], tmp_path: Path) -> None:
    """The latest comparison had server momentum 0.5 in all its runs, the one before 0.9."""
    for index, momentum in enumerate((0.5, 0.5, 0.9, 0.9)):
        folder = tmp_path / str(index)
        shutil.copytree(runs[index % 2], folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["server_optimizer"] = {"name": "momentum", "learning_rate": 1.0, "momentum": momentum}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    content = {
        "runs": [{"run_folder": "0"}, {"run_folder": "1"}],
        "methods": [{"method": "FedAvg(3)", "seeds": [0, 1]}],
        "diverged": [{"method": "FedAvg(3)", "seed": 2, "reason": "overflow"}],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    every = fl.find_runs(tmp_path, every=True)
    full = ["FedAvg(3) + momentum", "FedAvg(3) + momentum(momentum=0.9)"]  # 0.5 is the default
    assert [timing.method for timing in time_runs(every, [])] == [full[0], full[0], full[1], full[1]]
    shown = data(report_page(every))
    assert shown["methods"] == full
    assert [method["diverged"] for method in shown["front"]["methods"]] == [1, 0]
    assert [timing.method for timing in time_runs(fl.find_runs(tmp_path), [])] == ["FedAvg(3)"] * 2


@pytest.mark.parametrize(
    "damaged",
    [
        "[]",
        "{}",
        '{"runs": 3, "methods": 4, "diverged": 5}',
        '{"runs": [{}], "methods": [{"method": "a", "seeds": [0]}], "diverged": [{}], "target": "x"}',
        '{"runs": [], "methods": [{"method": ["a"], "seeds": 3}], "diverged": [3]}',
        "not JSON",
    ],
)
def test_a_damaged_comparison_says_nothing(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "comparison.json").write_text(damaged, encoding="utf-8")
    runs = [tmp_path / "run"]
    assert compared_titles(runs) == {}
    assert diverged_beside(runs) == []
    assert compared_target(runs) is None
    assert len(method_order(runs)) <= 1


def test_a_run_that_is_in_no_comparison_keeps_its_own_title(tmp_path: Path) -> None:
    row = {"method": "one", "seeds": [0]}
    content = {"runs": [{"run_folder": "elsewhere/a"}], "methods": [row], "target": None}
    (tmp_path / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    assert compared_titles([tmp_path / "a", tmp_path / "b"]) == {tmp_path / "a": "one"}
    assert compared_target([tmp_path / "a"]) is None
