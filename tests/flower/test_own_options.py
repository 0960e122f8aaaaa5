"""A deployment with a user's own strategy, solver and model in a file: where the file is, and where it is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.experiment import Experiment, assemble, load_experiment, prepare
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from fedlama.runs.network_log import NAME, read_log
from tests.flower.live import Live, assert_same_folders, wait

pytestmark = pytest.mark.slow

OPTIONS = '''
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fedlama as fl
from my_helper import WAIT


@dataclass(frozen=True)
class LargestWaits(fl.Strategy[dict[str, int]]):
    """The layer with the most parameters is uploaded in every second round only."""

    base_interval: int

    @property
    def cycle_rounds(self) -> int:
        return WAIT

    def init(self, layers: fl.Layers, seed: int) -> dict[str, int]:
        largest = max(layers, key=lambda layer: layer.parameters)
        return {layer.name: WAIT if layer is largest else 1 for layer in layers}

    def plan(self, state: dict[str, int], round_index: int) -> fl.Plan:
        due = frozenset(name for name, interval in state.items() if (round_index + 1) % interval == 0)
        return fl.Plan(round_index, due, state, cycle_start=round_index % WAIT == 0)


@dataclass(frozen=True)
class SignSGD(fl.LocalSolver):
    """Steps along the signs of the gradients."""

    learning_rate: float = 0.01

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: dict[str, list[Tensor]],
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient.sign())


class Net(nn.Module):
    """Two dense layers."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, hidden), nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))
'''
TOML = """
name = "own"
engine = "loop"
local_steps = 8
[partition]
clients = 2
alpha = 1.0
[model]
name = "my_options.py:Net"
hidden = 16
[strategy]
name = "my_options.py:LargestWaits"
base_interval = 2
[solver]
name = "my_options.py:SignSGD"
learning_rate = 0.02
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiment and its options; one for all tests, since a helper has one place in a process."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_options.py").write_text(OPTIONS)
    (folder / "my_helper.py").write_text("WAIT = 2\n")
    (folder / "own.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def given(folder: Path) -> Experiment:
    return load_experiment(str(folder / "own.toml"))


def test_options_of_the_users_own_in_a_deployment(given: Experiment, folder: Path, tmp_path: Path) -> None:
    """Node 0 has the file. Node 1 has none, then one without its helper, then both: the run waits for it."""
    second = tmp_path / "node1"
    second.mkdir()
    with Live(tmp_path / "live", nodes=0, warm=True) as live:
        a_server_without_the_file_says_so(live, given)
        live.node(0, plugins_dir=str(folder))
        live.node(1, plugins_dir=str(second))
        out = live.submit(given, "own", **{"plugins-dir": str(folder)})
        missing = (
            f"my_options.py cannot be read: No such file or directory ({second}/my_options.py); copy the submitted"
        )
        wait(lambda: missing in live.log("own"), 200, "the node to name the file")
        shutil.copy(folder / "my_options.py", second)
        wait(lambda: "my_options.py has changed" in live.log("own"), 120, "the node to notice that a helper is missing")
        shutil.copy(folder / "my_helper.py", second)
        run_folder = live.finish(out)
    incidents = read_log(run_folder / NAME)[0]["incidents"]
    assert any(missing in incident and "--node-config" in incident for incident in incidents), incidents
    planned = PlannedRun.of(given, assemble(given, prepare(given)), tmp_path / "loop")
    run_one(planned, RunOptions())
    (loop,) = (path.parent for path in (tmp_path / "loop").rglob("summary.json"))
    assert_same_folders(run_folder, loop)


def a_server_without_the_file_says_so(live: Live, given: Experiment) -> None:
    nothing = live.folder / "nothing"
    live.submit(given, "without", **{"plugins-dir": str(nothing)})
    sentence = f"my_options.py cannot be read: No such file or directory ({nothing}/my_options.py); copy the"
    wait(lambda: sentence in live.log("without"), 200, "the server to name the file")
    assert "to the SuperLink's machine, or submit the run with another --plugins-dir" in live.log("without")
