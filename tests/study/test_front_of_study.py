"""A comparison with FedAvg at two intervals says what each method's bytes are worth."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.cli.call import fedlama

METHODS = "fedavg,base_interval=3 fedavg,base_interval=9 fedlama,base_interval=3,increase_factor=3"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    words = ("digits", "partition.clients=4", "local_steps=18", "evaluate_every=9")
    out = str(tmp_path_factory.mktemp("study"))
    found = fedlama("compare", *words, "--methods", METHODS, "--seeds", "2", "--out", out, "--json").json
    return {"runs": found["runs"], **{row["method"]: row for row in found["methods"]}}


def test_ratios_of_losses_are_paired_by_seed(study: dict[str, Any]) -> None:
    losses = {
        (run["method"], run["hyperparameters"]["base_interval"], run["seed"]): run["loss"] for run in study["runs"]
    }
    logs = [math.log(losses["fedlama", 3, seed] / losses["fedavg", 3, seed]) for seed in (0, 1)]
    ratio = study["FedLAMA(3, 3)"]["loss_ratio"]
    assert isinstance(ratio, dict)
    assert ratio["mean"] == pytest.approx(math.exp(sum(logs) / 2), rel=1e-9)
    assert study["FedAvg(3)"]["loss_ratio"] is None


def test_the_front_is_fedavg_at_its_intervals(study: dict[str, Any]) -> None:
    for name in ("FedAvg(3)", "FedAvg(9)"):
        ratio = study[name]["bytes_at_equal_loss"]
        assert isinstance(ratio, dict)
        assert ratio["mean"] >= 1.0 - 1e-9  # a point of the front never needs fewer bytes than the front
    ratio = study["FedLAMA(3, 3)"]["bytes_at_equal_loss"]
    assert isinstance(ratio, dict)
    assert ratio["count"] == 2


def test_one_interval_makes_no_front() -> None:
    words = (
        "digits",
        "partition.clients=4",
        "local_steps=6",
        "--methods",
        "fedavg,base_interval=3 fedlama,base_interval=3",
    )
    done = fedlama("compare", *words, "--json")
    assert all(row["bytes_at_equal_loss"] is None for row in done.json["methods"])
