"""The preset `authors` puts every switch in force, and with it the library walks the path of their program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlama import SGD, FedAvg, Federation, FedLAMA, ReplayedClients, Run
from fedlama.federation.presets import authors
from fedlama.runs.execute import RunOptions, execute
from tests.core.helpers import dense, variables
from tests.experiment.helpers import experiment, federation
from tests.golden.load import load_golden


def test_every_switch_is_in_force(tmp_path: Path) -> None:
    own = experiment("preset=authors", "sampler.name=uniform", "sampler.active=4", "evaluate_every=12")
    (finished,) = execute(own, [own.strategy], RunOptions(tmp_path))
    config = json.loads((Path(str(finished.summary["run_folder"])) / "config.json").read_text())
    force = config["in_force"]
    assert force["strategy"] == {
        "name": "fedlama",
        "base_interval": 3,
        "increase_factor": 2,
        "cutoff": "crossing",
        "discrepancy_share": "all",
        "warm_up_rounds": 6,
        "accelerate": False,
    }
    assert (force["weighting"], force["evaluate"]) == ("equal", "best_client")
    assert force["sampler"] == {"name": "uniform", "active": 4, "hold_rounds": 2}
    solver = force["solver"]
    assert (solver["velocity"], solver["state_scope"], solver["decay_normalisation"]) == ("step", "slot", False)
    assert (solver["learning_rate"], solver["momentum"]) == (0.1, 0.9)
    assert not any(layer["buffers"] for layer in force["layers"].values())
    assert config["preset"] == "authors"


def test_the_paper_is_the_default() -> None:
    force = federation("sampler.name=uniform", "sampler.active=4").describe()
    strategy, solver, sampler = force["strategy"], force["solver"], force["sampler"]
    assert (strategy["discrepancy_share"], strategy["warm_up_rounds"]) == ("adaptive", 0)
    assert (solver["velocity"], solver["state_scope"], solver["decay_normalisation"]) == ("gradient", "cohort", True)
    assert (sampler["hold_rounds"], force["weighting"], force["evaluate"]) == (1, "samples", "global")


def test_statistics_travel_under_fedavg_only() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    clients = [[(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))]]
    own = Federation(model, clients, FedLAMA(1, 2), 1)
    assert authors(own).describe()["layers"]["1.weight"]["buffers"] == []
    sent = authors(replace(own, strategy=FedAvg(1))).describe()["layers"]["1.weight"]["buffers"]
    assert sent == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def test_the_recorded_run_is_matched_through_the_preset() -> None:
    golden = load_golden()
    batches = [
        [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(inputs, labels, strict=True)]
        for inputs, labels in zip(golden.x, golden.y, strict=True)
    ]
    own = authors(
        Federation(
            dense(golden.initial),
            ReplayedClients(batches),
            FedLAMA(golden.steps, golden.phi),
            golden.rounds * golden.steps,
            solver=SGD(golden.learning_rate, momentum=golden.momentum),
            keep_client_models=True,
        )
    )
    run = Run(own)
    for index in range(golden.rounds):
        record = run.advance()
        assert list(run.state.intervals.values()) == golden.intervals[index].tolist()
        np.testing.assert_allclose(list(run.state.unit_discrepancy.values()), golden.d[index], rtol=1e-3)
        for worker in range(golden.workers):
            for ours, theirs in zip(variables(record.client_models[worker]), golden.model(index, worker), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_small_clients_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fewer than one batch"):
        federation("partition.name=iid", "partition.clients=300")
    assert len(federation("partition.name=iid", "partition.clients=300", "preset=authors").clients) == 300
