"""A deployment that version 0.1.0 (commit 209be6f) began is resumed: its checkpoint, and the clients' own files.

`first_version/` holds the run folder after two of four rounds, in the middle of a cycle, and the states of both
clients. Another machine may compute other bits, so numbers are compared with a tolerance.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fedlama.experiment import assemble, load_experiment, prepare
from fedlama.flower import Flower
from fedlama.flower.deploy.federation import deploy_experiment
from fedlama.runs.execute import folder_of
from tests.flower.cases import QUICK, in_process

STORED = Path(__file__).parent / "first_version"
NAME = "fedlama-2-4-seed0-9ba011d7"
SETTINGS = (
    "engine=loop",
    "model.hidden=[4]",
    "partition.clients=2",
    "partition.alpha=1.0",
    "local_steps=8",
    "strategy.base_interval=2",
    "strategy.increase_factor=4",
    "solver.momentum=0.9",
)


def test_it_is_resumed_in_the_middle_of_a_cycle(tmp_path: Path) -> None:
    experiment = load_experiment("digits", SETTINGS)
    path = folder_of(experiment, tmp_path)
    assert path.name == NAME
    shutil.copytree(STORED / "run", path)
    shutil.copytree(STORED / "states", tmp_path / "states")
    federation = assemble(experiment, prepare(experiment))
    channel = in_process(federation, tmp_path / "states")
    result = deploy_experiment(experiment, Flower(channel, QUICK), tmp_path).result
    requests = [(request.round_index, request.client, request.answered_round) for request in channel.requests]
    assert requests == [(2, 0, 1), (2, 1, 1), (3, 0, 2), (3, 1, 2)]  # no client is sent the full model
    assert [reply.status for reply in channel.replies] == ["done"] * 4
    expected = federation.run()
    for name, value in expected.model.items():
        torch.testing.assert_close(result.model[name], value, rtol=1e-4, atol=1e-5)
    assert [record.loss for record in result.rounds] == pytest.approx(
        [record.loss for record in expected.rounds], rel=1e-4
    )
    assert result.ledger.transfers == expected.ledger.transfers
