"""The run folder: what is in it agrees with the result, and with itself when it is read again."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from fedlama import Ledger, TestSet
from fedlama.core.ledger import Transfer, cost_percent, round_bytes
from fedlama.experiment import prepare
from fedlama.reporting.observer import RunReporter
from fedlama.runs import finite
from fedlama.runs.execute import Finished, RunOptions, execute, folder_of
from tests.experiment.helpers import experiment

CHANGES = ("sampler.name=uniform", "sampler.active=3", "local_steps=15", "seed=7")  # the budget ends inside a cycle


@pytest.fixture(scope="module", autouse=True)
def _pictures() -> None:
    """Draw them."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    own = experiment(*CHANGES)
    options = RunOptions(tmp_path_factory.mktemp("runs"), quiet=True)
    with RunReporter(options) as reporter:
        (one,) = execute(own, [own.strategy], options, reporter)
    return one


@pytest.fixture(scope="module")
def folder(finished: Finished) -> Path:
    return Path(str(finished.summary["run_folder"]))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in path.read_text().splitlines())


def transfers(folder: Path) -> list[Transfer]:
    return [
        Transfer.from_json(line["round"], record)
        for line in lines(folder / "ledger.jsonl")
        for record in line["shipments"]
    ]


def test_files(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "ledger.jsonl",
        "layers.jsonl",
        "summary.json",
        "model.safetensors",
        *(
            f"{name}.{ending}"
            for name in ("accuracy_steps", "accuracy_rounds", "accuracy_megabytes", "intervals")
            for ending in ("png", "svg", "pdf")
        ),
    }


def test_config_holds_settings_versions_and_commit(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["seed"], config["local_steps"], config["batch_size"]) == (7, 15, 16)
    assert config["sampler"] == {"name": "uniform", "active": 3, "hold_rounds": 1}
    assert config["strategy"]["name"] == "fedlama"
    environment = config["environment"]
    assert environment["versions"]["torch"] == torch.__version__
    assert {"python", "fedlama", "numpy"} <= set(environment["versions"])
    assert config["in_force"]["strategy"] == config["strategy"]
    assert config["in_force"]["weighting"] == "samples"
    assert config["in_force"]["layers"]["dense0.weight"] == {
        "parameters": 8192, "adaptive": True, "tensors": ["dense0.weight"], "buffers": [],
    }  # fmt: skip


def test_commit_is_that_of_the_checkout(folder: Path) -> None:
    here = str(Path(__file__).parent)
    head = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    commit = json.loads((folder / "config.json").read_text())["environment"]["commit"]
    assert commit.removesuffix("-dirty") == head.stdout.strip()


def test_metrics_agree_with_the_result(finished: Finished, folder: Path) -> None:
    for line, record in zip(lines(folder / "metrics.jsonl"), finished.result.rounds, strict=True):
        assert (line["round"], line["local_steps"]) == (record.round_index, record.local_steps)
        assert (line["clients"], line["train_loss"]) == (3, record.loss)
        assert (line["bytes_up"], line["bytes_down"]) == (record.bytes_up, record.bytes_down)
        assert line["accuracy"] == (record.score.accuracy if record.score else None)
    assert line["accuracy"] == finished.summary["accuracy"]


def test_layers_agree_with_the_result(finished: Finished, folder: Path) -> None:
    for line, record in zip(lines(folder / "layers.jsonl"), finished.result.rounds, strict=True):
        expected = {name: asdict(layer) | {"refused": list(layer.refused)} for name, layer in record.layers.items()}
        assert line["layers"] == expected


def test_ledger_read_again_is_the_ledger(finished: Finished, folder: Path) -> None:
    again = Ledger(transfers(folder))
    assert again.transfers == finished.result.ledger.transfers
    assert again.total_bytes("up") == finished.summary["bytes_up"]
    assert again.total_bytes("down") == finished.summary["bytes_down"]
    assert cost_percent(again.cost(), 9610, 15, 3) == finished.summary["cost_percent"]


def test_metrics_follow_from_the_ledger(folder: Path) -> None:
    all_shipments = transfers(folder)
    for line in lines(folder / "metrics.jsonl"):
        own = [one for one in all_shipments if one.round_index == line["round"]]
        assert line["bytes_up"] == round_bytes(own, "up")
        assert line["bytes_down"] == round_bytes(own, "down")


def test_layers_follow_from_the_ledger(folder: Path) -> None:
    up: dict[tuple[int, str], int] = {}
    for row in Ledger(transfers(folder)).rows():
        if row.direction == "up":
            up[row.round_index, row.layer] = up.get((row.round_index, row.layer), 0) + row.payload_bytes
    for line in lines(folder / "layers.jsonl"):
        for name, layer in line["layers"].items():
            assert layer["bytes_up"] == up.get((line["round"], name), 0)
            assert layer["synchronised"] == (layer["bytes_up"] > 0) == (layer["discrepancy"] is not None)


def test_summary_is_the_line_of_json(finished: Finished, folder: Path) -> None:
    assert json.loads((folder / "summary.json").read_text()) == finished.summary


def test_the_stored_model_has_the_accuracy_of_the_run(finished: Finished, folder: Path) -> None:
    material = prepare(experiment(*CHANGES))
    material.model.load_state_dict(load_file(folder / "model.safetensors"))
    score = TestSet(material.dataset.test_x, material.dataset.test_y, material.clients.prepare).score(material.model)
    assert score.accuracy == finished.summary["accuracy"]
    assert score.loss == pytest.approx(finished.summary["loss"], rel=1e-6)


def test_pictures_are_pictures(folder: Path) -> None:
    for file in folder.glob("*.png"):
        picture = imread(file)
        assert min(picture.shape[:2]) > 100
        assert len(np.unique(picture[..., :3])) > 2  # something is drawn


def test_the_same_settings_name_the_same_folder(tmp_path: Path) -> None:
    assert folder_of(experiment(), tmp_path) == folder_of(experiment(), tmp_path)


@pytest.mark.parametrize("change", ["seed=1", "solver.learning_rate=0.2", "strategy.warm_up_rounds=1", "batch_size=8"])
def test_other_settings_name_another_folder(change: str, tmp_path: Path) -> None:
    assert folder_of(experiment(change), tmp_path) != folder_of(experiment(), tmp_path)


def test_a_second_run_replaces_the_first(finished: Finished, folder: Path) -> None:
    before = (folder / "ledger.jsonl").read_text()
    (folder / "model.safetensors").write_bytes(b"")
    own = experiment(*CHANGES)
    (again,) = execute(own, [own.strategy], RunOptions(folder.parents[1]))
    assert again.summary["run_folder"] == finished.summary["run_folder"]
    assert (folder / "ledger.jsonl").read_text() == before
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(value, finished.result.model[name])


def test_numbers_that_json_does_not_know_are_null() -> None:
    assert [finite(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [1.5, None, None, None]
