"""The keys of a run's configuration: older submissions still work, and a client finds the state of its run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlama.core.deprecations import RenamedWarning
from fedlama.errors import ConfigError
from fedlama.experiment import assemble, load_experiment, prepare, read, resolve
from fedlama.flower.deploy.submit import run_config
from fedlama.flower.protocol import fingerprint
from fedlama.flower.settings import (
    DEFAULTS,
    aggregation_of,
    client_number,
    experiment_of,
    policy_of,
    state_folder,
    state_name,
)

NAMES = {
    "digits partition.clients=4": "digits-fa1d0473d15417a0",
    "digits guard.name=median": "digits-37c2c47189d2c8c8",
    "digits aggregator.name=median": "digits-37c2c47189d2c8c8",
    "digits server_step.name=momentum": "digits-3ee57894ea8b7fca",
    "digits server_optimizer.name=momentum": "digits-3ee57894ea8b7fca",
}
"""Names of the first version, by which nodes find the states of runs that are not finished."""


@pytest.mark.filterwarnings("ignore::fedlama.core.deprecations.RenamedWarning")
@pytest.mark.parametrize("experiment", NAMES)
def test_the_state_folder_of_an_experiment_keeps_its_name(experiment: str) -> None:
    assert state_name({"experiment": experiment}) == NAMES[experiment]


@pytest.mark.parametrize(("codec", "expected"), [("float32", "26bd5918abe8bced"), ("float16", "791f70a26ae30446")])
def test_the_fingerprint_of_a_federation_stays(codec: str, expected: str) -> None:
    """A client ignores its file when the fingerprint differs, so a run that goes on would lose its momentum."""
    experiment = resolve(read("digits", [f"codec.name={codec}"]))
    federation = assemble(experiment, prepare(experiment))
    assert federation.layers is not None
    assert fingerprint(federation.layers, federation.codec) == expected


def test_an_experiment_is_the_same_as_words_and_as_json() -> None:
    text = "digits partition.clients=4 solver.momentum=0.5"
    experiment = experiment_of({"experiment": text})
    assert experiment_of({"experiment": json.dumps(experiment.to_json())}).to_json() == experiment.to_json()


def test_a_submission_in_old_words_is_the_same_experiment() -> None:
    record = resolve(read("digits", ["aggregator.name=median"])).to_json()
    old = {**record, "guard": record["aggregator"]}
    old.pop("aggregator")
    with pytest.warns(RenamedWarning, match="guard is now called aggregator"):
        experiment = experiment_of({"experiment": json.dumps(old)})
    assert experiment.to_json() == record


def test_the_rules_have_defaults_and_every_key_is_read() -> None:
    policy = policy_of({})
    assert (policy.deadline, policy.min_replies, policy.rejoin, policy.join) == (600.0, 1.0, "now", 300.0)
    given = {"deadline": 5, "min-replies": "0.5", "rejoin": "next-cycle", "join": 7.5}
    policy = policy_of(given)
    assert (policy.deadline, policy.min_replies, policy.rejoin, policy.join) == (5.0, 0.5, "next-cycle", 7.5)
    assert aggregation_of({}) == "models"
    assert aggregation_of({"aggregation": "sums"}) == "sums"
    with pytest.raises(ConfigError, match="aggregation is 'sum'; did you mean 'sums'"):
        aggregation_of({"aggregation": "sum"})


def test_a_submitted_configuration_holds_keys_of_the_app_only() -> None:
    lines = run_config(resolve(read("digits")), {"out": "runs", "deadline": 5.0}).splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["experiment", "out", "deadline"]
    assert {"experiment", "out", "deadline"} <= set(DEFAULTS)


def test_the_state_folder_is_the_node_s_then_the_run_s_then_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLAMA_STATE", "/variable")
    assert state_folder({"state-dir": "/node"}, {"state-dir": "/run"}) == Path("/node")
    assert state_folder({}, {"state-dir": "/run"}) == Path("/run")
    assert state_folder({}, {"state-dir": ""}) == Path("/variable")
    monkeypatch.delenv("FEDLAMA_STATE")
    assert state_folder({}, {}) == Path.home() / ".fedlama" / "state"


def test_a_node_has_a_number() -> None:
    assert client_number({"partition-id": 3}) == 3
    for wrong in ({}, {"partition-id": -1}, {"partition-id": "0"}):
        with pytest.raises(ConfigError, match=r"partition-id is .*, expected a whole number of 0 or more; start the"):
            client_number(wrong)


CODEC = """from dataclasses import dataclass
from typing import ClassVar

from fedlama import Float32


@dataclass(frozen=True)
class Whole(Float32):
    name: ClassVar[str] = "whole"
"""


def test_files_of_a_users_own_are_in_the_plugins_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "mine.toml").write_text("[codec]\nname = 'my_codec.py:Whole'\n")
    (tmp_path / "my_codec.py").write_text(CODEC)
    experiment = load_experiment(str(tmp_path / "mine.toml"))
    run, node = {"experiment": json.dumps(experiment.to_json())}, {"plugins-dir": str(tmp_path / "node")}
    missing = (
        r"my_codec\.py cannot be read: No such file or directory \(.*node/my_codec\.py\); put it there, on every node "
        r"and on the server, or set plugins-dir \(in the node's --node-config, or with --plugins-dir when the run is "
    )
    with pytest.raises(ConfigError, match=missing):
        experiment_of(run, node)
    (tmp_path / "node" / "my_codec.py").write_text(CODEC)
    assert experiment_of(run, node).to_json() == experiment.to_json()
    assert state_name(run, node) == f"digits-{experiment.digest(8)}"
    assert experiment_of({**run, "plugins-dir": str(tmp_path)}).codec.name == "whole"
    monkeypatch.setenv("FEDLAMA_PLUGINS", str(tmp_path))
    assert experiment_of(run).codec.name == "whole"
    (tmp_path / "node" / "my_codec.py").write_text("raise SystemExit('other code is not run')")
    with pytest.raises(ConfigError, match=r"my_codec\.py has changed: the configuration was written with SHA-256"):
        experiment_of(run, node)
