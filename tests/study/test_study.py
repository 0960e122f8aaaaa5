"""`fedlama compare` with methods and seeds."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from fedlama.analysis.statistics import interval
from fedlama.runs import execute as comparison
from fedlama.runs.execute import Finished
from tests.cli.call import RUN_KEYS, SMALL, Called, fedlama, refused

ARGUMENTS = ("compare", "digits", *SMALL, "--seeds", "2,0,1", "--methods", "fedlama fedavg fedlama,increase_factor=1")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def called(out: Path) -> Called:
    return fedlama(*ARGUMENTS, "--json", "--out", out)


def test_runs_are_listed_as_in_every_json(called: Called) -> None:
    runs = called.json["runs"]
    assert [set(run) for run in runs] == [RUN_KEYS] * 9
    assert [run["seed"] for run in runs] == [2, 0, 1] * 3
    assert called.err == ""


def test_rows_are_worked_out_from_the_runs(called: Called) -> None:
    content = called.json
    assert content["base"] == "FedAvg(3)"
    by_method = [content["runs"][start : start + 3] for start in (0, 3, 6)]
    assert [row["method"] for row in content["methods"]] == ["FedLAMA(3, 2)", "FedAvg(3)", "FedLAMA(3, 1)"]
    for row, runs in zip(content["methods"], by_method, strict=True):
        accuracies = [100 * run["accuracy"] for run in runs]
        assert row["accuracy_percent"] == interval(accuracies).to_json()
        differences = [own - 100 * base["accuracy"] for own, base in zip(accuracies, by_method[1], strict=True)]
        if row["method"] == "FedAvg(3)":
            assert (row["difference_points"], row["within_noise"]) == (None, None)
        else:
            assert row["difference_points"]["mean"] == pytest.approx(math.fsum(differences) / 3)
        assert row["cost_percent"]["mean"] == pytest.approx(sum(run["cost_percent"] for run in runs) / 3)
        assert row["seeds"] == [0, 1, 2]


def test_fedavg_is_fedlama_without_an_increase_seed_by_seed(called: Called) -> None:
    (row,) = [row for row in called.json["methods"] if row["method"] == "FedLAMA(3, 1)"]
    assert row["difference_points"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "count": 3}
    assert row["within_noise"] is True


def test_the_target_is_the_whole_percent_that_all_reach(called: Called) -> None:
    content = called.json
    best = {}
    for run in content["runs"]:
        lines = (Path(run["run_folder"]) / "metrics.jsonl").read_text().splitlines()
        best[run["run_folder"]] = max(json.loads(line)["accuracy"] or 0 for line in lines)
    assert content["target_accuracy"] == math.floor(100 * min(best.values())) / 100
    for row in content["methods"]:
        assert row["seeds_that_reached_target"] == [2, 0, 1]
        assert 0 < row["megabytes_to_target"]["mean"] <= row["megabytes"]["mean"]


def without_reused(content: dict[str, Any]) -> dict[str, Any]:
    runs = [{key: value for key, value in run.items() if key != "reused"} for run in content["runs"]]
    return content | {"runs": runs}


def test_what_is_done_is_not_done_again(called: Called, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> Finished:
        raise AssertionError("trained again")

    monkeypatch.setattr(comparison, "run_one", refuse)
    again = fedlama(*ARGUMENTS, "--json", "--out", out)
    assert {run["reused"] for run in called.json["runs"]} == {False}
    assert {run["reused"] for run in again.json["runs"]} == {True}
    assert without_reused(again.json) == without_reused(called.json)
    told = fedlama(*ARGUMENTS, "--out", out)
    assert "9 of 9 runs had already finished" in told.out
    failed = fedlama(*ARGUMENTS, "--again", "--out", out)
    assert (failed.code, "AssertionError: trained again" in failed.err) == (1, True)


def test_an_interrupted_run_is_done_again(called: Called, out: Path) -> None:
    folder = Path(called.json["runs"][4]["run_folder"])
    (folder / "summary.json").unlink()
    assert [run["bytes_up"] for run in fedlama(*ARGUMENTS, "--json", "--out", out).json["runs"]] == [
        run["bytes_up"] for run in called.json["runs"]
    ]
    assert (folder / "summary.json").exists()


def test_the_table_says_it_in_words_and_gives_the_commands(called: Called, out: Path) -> None:
    shown = fedlama(*ARGUMENTS, "--target", "5", "--out", out)
    assert shown.code == 0
    assert "95 % interval over 3 seeds" in shown.out
    assert "FedLAMA(3, 1) is 0.00 points above FedAvg(3)" in shown.out
    assert "within noise" in shown.out
    commands = [shlex.split(line) for line in shown.out.splitlines() if line.startswith("  fedlama compare")]
    assert len(commands) == 3
    wanted: dict[str, Any] = {row["method"]: row for row in called.json["methods"]}
    for words in commands:  # each command reproduces its row, without training, from the same folders
        content = fedlama(*words[1:], "--json").json
        row = content["methods"][-1]
        assert row["accuracy_percent"] == wanted[row["method"]]["accuracy_percent"]
        assert row["difference_points"] == wanted[row["method"]]["difference_points"]
        assert row["cost_percent"] == wanted[row["method"]]["cost_percent"]


def test_one_seed_promises_nothing(out: Path) -> None:
    shown = fedlama("compare", *SMALL, "--seeds", "1", "--out", out)
    assert "with one seed this may be noise, give --seeds 5" in shown.out


def test_a_target_that_none_reaches(out: Path, called: Called) -> None:
    assert called.code == 0
    content = fedlama(*ARGUMENTS, "--target", "100", "--json", "--out", out).json
    assert [row["megabytes_to_target"] for row in content["methods"]] == [None] * 3


@pytest.mark.parametrize("seeds", ["0", "-1", "1,1", "a", "", ",", "1.5"])
def test_seeds_that_are_none(seeds: str) -> None:
    assert refused("compare", *SMALL, "--seeds", seeds)[0].startswith(f"--seeds is {seeds!r}")


def test_a_method_twice_is_refused(tmp_path: Path) -> None:
    (problem,) = refused("compare", *SMALL, "--methods", "fedavg fedavg", "--out", tmp_path)
    assert problem == "a method is listed twice among FedAvg(3), FedAvg(3); name each once"
