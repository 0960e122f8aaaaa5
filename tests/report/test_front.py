"""The front in the report: several seeds, FedAvg at several intervals, and a seed that diverged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedlama as fl
from fedlama.reporting.html.front import front
from tests.pictures import drawn
from tests.report.test_page import data
from tests.runs.federations import make


def run(title: str, seed: int, sent: int, loss: float | None, **config: Any) -> dict[str, Any]:  # noqa: ANN401
    settings = {"data": {"name": "digits"}, **config}
    ends = {"up": [sent], "down": [0], "testLoss": [loss]}
    plain = title.startswith("FedAvg(") and " + " not in title
    return {"title": title, "plain": plain, "seed": seed, "finished": True, "config": settings, **ends}


FEDAVG = [run(f"FedAvg({tau})", seed, 24_000_000 // tau, 0.1 * tau) for tau in (6, 24) for seed in (0, 1)]


def test_bytes_at_equal_loss_and_who_is_beaten() -> None:
    fewer = [run("FedLAMA(6, 4)", seed, 1_000_000, 1.2) for seed in (0, 1)]
    methods = {each["title"]: each for each in front([*FEDAVG, *fewer])["methods"]}
    assert methods["FedLAMA(6, 4)"]["equalLoss"] == "0.50 [0.50, 0.50]"  # FedAvg(12) would have sent 2 MB
    assert [title for title, each in methods.items() if each["onFront"]] == ["FedAvg(6)", "FedLAMA(6, 4)"]
    beaten = front([*FEDAVG, run("Worse", 0, 2_000_000, 2.5)])["methods"]
    assert [each["title"] for each in beaten if not each["onFront"]] == ["Worse"]


def test_another_codec_or_server_optimizer_is_not_the_baseline() -> None:
    others = [run(f"FedAvg({tau}) + nesterov", 0, 1_000, 0.1) for tau in (6, 24)]
    methods = front([FEDAVG[0], *others])["methods"]
    assert [each["equalLoss"] for each in methods] == [None] * 3


def test_one_method_under_one_seed_twice_is_two_methods() -> None:
    twice = [run("FedAvg(6)", 0, 10, 1.0), run("FedAvg(6)", 0, 20, 0.5)]
    assert [each["title"] for each in front(twice)["methods"]] == ["FedAvg(6)", "FedAvg(6) #2"]


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([run("FedAvg(6)", 0, 10, 1.0, model={"name": name}) for name in ("mlp", "leaf-cnn")], "differ in data, model"),
        ([run("FedAvg(6)", 0, 10, None)], "No finished run has a test loss"),
        ([{**FEDAVG[0], "finished": False}], "No finished run has a test loss"),
    ],
)
def test_what_cannot_be_compared(runs: list[dict[str, Any]], why: str) -> None:
    found = front(runs)
    assert found["methods"] == []
    assert why in found["why"]


TASK = {"name": "classification", "label_smoothing": 0.0}


@pytest.mark.parametrize(
    ("configs", "compared"),
    [
        ([{}, {"task": TASK}], True),  # before version 0.2 a config.json had no task
        ([{"task": {"name": "classification"}}, {"task": TASK}], True),  # nor had a section keys that came later
        ([{"task": TASK}, {}, {"task": {**TASK, "label_smoothing": 0.1}}], False),  # each alone is like the second
        ([{"task": {"name": "classification"}}, {"task": {"name": "regression"}}], False),
        ([{"rounds": None}, {"rounds": 5}], False),
        ([{}, {"rounds": 5}], False),  # not written where it is null
        ([{}, {"data": {"name": "digits", "rows": 100}}], False),  # the same
        ([{}, {"data": {"name": "digits", "rows": None}}], True),
    ],
)
def test_what_an_old_configuration_does_not_say_is_unknown(configs: list[dict[str, Any]], compared: bool) -> None:
    runs = [run("FedAvg(6)", seed, 10, 1.0, **config) for seed, config in enumerate(configs)]
    assert bool(front(runs)["methods"]) is compared


def federation(strategy: fl.Strategy[Any], bad: int | None = None) -> Callable[[int], fl.Federation]:
    def of_seed(seed: int) -> fl.Federation:
        solver = fl.SGD(learning_rate=1e30 if seed == bad else 0.05)
        return replace(make(seed, local_steps=8, solver=solver, codec=fl.Float32()), strategy=strategy)

    return of_seed


def test_seeds_that_diverged_are_counted(tmp_path: Path) -> None:
    methods = {"a": federation(fl.FedAvg(2)), "b": federation(fl.FedAvg(4), bad=1)}
    with drawn():
        fl.compare(methods, seeds=2, out=tmp_path, track=(), quiet=True)
    folder = tmp_path / "comparison"
    text = fl.write_report(fl.find_runs([folder]), tmp_path / "report.html").read_text()
    assert "Runs that diverged; they are in no mean" in text
    assert re.search(r"<td>1</td><td>round 0: client \d diverged in layer ", text)
    found = data(text)["front"]["methods"]
    assert sorted(len(method["seeds"]) for method in found) == [1, 2]
    assert sum(method["diverged"] for method in found) == 1
    assert (folder / "front.png").stat().st_size > 10_000
