"""The keys of a run's configuration: older submissions still work, and a client finds the state of its run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from fedlama.core.deprecations import RenamedWarning
from fedlama.errors import ConfigError
from fedlama.experiment import Experiment, assemble, load_experiment, prepare, read, resolve
from fedlama.flower import Flower
from fedlama.flower.deploy.federation import deploy_experiment
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
from tests.flower.in_process import InProcessChannel

NAMES = {
    "digits partition.clients=4": "digits-fa1d0473d15417a0",
    "digits guard.name=median": "digits-37c2c47189d2c8c8",
    "digits aggregator.name=median": "digits-37c2c47189d2c8c8",
    "digits server_step.name=momentum server_step.momentum=0.9": "digits-3ee57894ea8b7fca",
    "digits server_optimizer.name=momentum server_optimizer.momentum=0.9": "digits-3ee57894ea8b7fca",
}
"""Names of the first version, by which nodes find the states of runs that are not finished."""


@pytest.mark.filterwarnings("ignore::fedlama.core.deprecations.RenamedWarning")
@pytest.mark.parametrize("experiment", NAMES)
def test_the_state_folder_of_an_experiment_keeps_its_name(experiment: str) -> None:
    assert state_name({"experiment": experiment}, {}) == NAMES[experiment]


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
    assert (policy.deadline, policy.min_replies, policy.rejoin, policy.join) == (600.0, 0.5, "now", 300.0)
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


@pytest.fixture
def own(tmp_path: Path) -> Experiment:
    """An experiment with a codec in a file of the user's own, and an empty folder of a node."""
    (tmp_path / "node").mkdir()
    (tmp_path / "mine.toml").write_text("[codec]\nname = 'my_codec.py:Whole'\n")
    (tmp_path / "my_codec.py").write_text(CODEC)
    return load_experiment(str(tmp_path / "mine.toml"))


def test_a_file_of_the_users_own_is_looked_up_on_each_machine(
    own: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, node = {"experiment": json.dumps(own.to_json())}, {"plugins-dir": str(tmp_path / "node")}
    missing = (
        r"my_codec\.py cannot be read: No such file or directory \(.*node/my_codec\.py\); copy the submitted file, "
    )
    with pytest.raises(ConfigError, match=missing + ".* to this node, or set plugins-dir in the node's --node-config"):
        experiment_of(run, node)
    with pytest.raises(ConfigError, match=missing + ".* to the SuperLink's machine, or submit the run with another"):
        experiment_of({**run, **node})
    (tmp_path / "node" / "my_codec.py").write_text(CODEC)
    assert experiment_of(run, node).to_json() == own.to_json()
    assert state_name(run, node) == f"digits-{own.digest(8)}"
    assert experiment_of({**run, "plugins-dir": str(tmp_path)}).codec.name == "whole"
    monkeypatch.setenv("FEDLAMA_PLUGINS", str(tmp_path))
    assert experiment_of(run, {}).codec.name == "whole"


def test_a_node_chooses_its_folder_itself_and_runs_no_other_file(
    own: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "node")
    run = {"experiment": json.dumps(own.to_json()), "plugins-dir": str(tmp_path)}  # the node ignores this
    with pytest.raises(ConfigError, match="node/my_codec"):
        experiment_of(run, {})
    for elsewhere in ("../my_codec.py:Whole", f"{tmp_path}/my_codec.py:Whole", "x/../../my_codec.py:Whole"):
        text = json.dumps({**own.to_json(), "codec": {"name": elsewhere}})
        with pytest.raises(
            ConfigError, match=r"codec\.name names the file '.*my_codec\.py', outside of .*node; name a file"
        ):
            experiment_of({"experiment": text}, {"plugins-dir": str(tmp_path / "node")})
    (tmp_path / "node" / "my_codec.py").write_text("raise SystemExit('other code is not run')")
    changed = r"my_codec\.py has changed: the configuration was written with SHA-256 .*; copy the submitted file, "
    with pytest.raises(ConfigError, match=changed):
        experiment_of(run, {})


def test_a_file_outside_of_the_experiments_folder_is_not_submitted(own: Experiment, tmp_path: Path) -> None:
    text = run_config(own, {})
    assert json.loads(tomllib.loads(text)["experiment"])["sources"] == {"codec": own.origins["codec"].digest}
    (tmp_path / "node" / "mine.toml").write_text("[codec]\nname = '../my_codec.py:Whole'\n")
    outside = load_experiment(str(tmp_path / "node" / "mine.toml"))
    with pytest.raises(
        ConfigError, match=r"codec\.name is '\.\./my_codec\.py:Whole', expected a file in the folder of"
    ):
        run_config(outside, {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("availability.name=random", "availability.name is 'random', expected 'always', because the real clients"),
        ("evaluate=best_client", "evaluate is 'best_client', expected 'global', because single clients' models stay"),
        ("precision=bfloat16", "precision is 'bfloat16', expected 'float32', because nodes compute in the model's own"),
    ],
)
def test_what_a_deployment_cannot_do_is_refused_before_it_is_submitted(change: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_config(resolve(read("digits", [change])), {})


def test_a_server_refuses_what_was_submitted_without_fedlama(tmp_path: Path) -> None:
    """An operator may submit any experiment with `flwr run`; no file is written before it is refused."""
    experiment = resolve(read("digits", ["engine=loop", "precision=bfloat16"]))
    engine = Flower(InProcessChannel(lambda: pytest.fail("a client was asked"), 0, tmp_path / "states"))
    with pytest.raises(ConfigError, match="precision is 'bfloat16', expected 'float32', because nodes"):
        deploy_experiment(experiment, engine, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
