"""`--json`: one object, the promised keys, nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.call import RUN_KEYS, SMALL, fedlama
from tests.cli.conftest import Compared


def test_compare_lists_the_three_methods(compared: Compared) -> None:
    content = compared.called.json
    assert set(content) == {
        "version",
        "runs",
        "diverged",
        "base",
        "primary",
        "direction",
        "target",
        "target_accuracy",
        "seeds",
        "methods",
        "front",
    }
    assert (content["version"], content["base"], content["seeds"]) == (1, "FedAvg(3)", [0])
    assert [row["method"] for row in content["methods"]] == ["FedAvg(3)", "FedAvg(6)", "FedLAMA(3, 2)"]
    assert [set(run) for run in content["runs"]] == [RUN_KEYS] * 3
    assert [run["method"] for run in content["runs"]] == ["fedavg", "fedavg", "fedlama"]
    assert [run["hyperparameters"]["base_interval"] for run in content["runs"]] == [3, 6, 3]
    assert compared.called.err == ""


def test_types(compared: Compared) -> None:
    for run in compared.called.json["runs"]:
        assert all(type(run[key]) is int for key in ("seed", "bytes_up", "bytes_down", "rounds"))
        assert all(type(run[key]) is float for key in ("accuracy", "loss", "cost_percent", "seconds"))
        assert 0 <= run["accuracy"] <= 1
        assert Path(run["run_folder"]).is_dir()


def test_costs_are_relative_to_the_base_interval(compared: Compared) -> None:
    base, long, own = compared.called.json["runs"]
    assert (base["cost_percent"], long["cost_percent"]) == (100.0, 50.0)
    assert 50.0 <= own["cost_percent"] <= 100.0
    assert (base["rounds"], long["rounds"], own["rounds"]) == (4, 2, 4)
    assert base["bytes_up"] == 2 * long["bytes_up"]


def test_the_comparison_is_kept_as_a_file_with_pictures(compared: Compared) -> None:
    folder = compared.out / "digits"
    assert json.loads((folder / "comparison.json").read_text()) == compared.called.json
    pictures = {file.name for file in folder.glob("*.png")}
    assert pictures == {"accuracy_steps.png", "accuracy_rounds.png", "accuracy_megabytes.png", "front.png"}


@pytest.mark.parametrize(
    "flags", [("--seeds", "2"), ("--methods", "fedavg fedlama"), ("--target", "90"), ("--seeds", "0,", "--again")]
)
def test_the_schema_is_the_same_whatever_the_flags(flags: tuple[str, ...], compared: Compared, tmp_path: Path) -> None:
    content = fedlama("compare", "digits", *SMALL, *flags, "--json", "--out", tmp_path).json
    plain = compared.called.json
    assert content.keys() == plain.keys()
    for section in ("runs", "methods"):
        assert {frozenset(entry) for entry in content[section]} == {frozenset(plain[section][0])}
    assert json.loads((tmp_path / "digits" / "comparison.json").read_text()) == content


def test_every_key_is_documented(compared: Compared) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "reports.md").read_text(encoding="utf-8")
    content = compared.called.json
    for key in [*content, *content["methods"][0], *content["runs"][0]]:
        assert f"`{key}`" in page, key


def test_run_lists_one_method(tmp_path: Path) -> None:
    fixed = 'strategy = {name = "fixed", base_interval = 3, intervals = {"*.bias" = 2}}'
    (run,) = fedlama("run", *SMALL, fixed, "--json", "--out", tmp_path).json["runs"]
    assert run["method"] == "fixed"
    assert run["hyperparameters"] == {"base_interval": 3, "intervals": {"*.bias": 2}}
