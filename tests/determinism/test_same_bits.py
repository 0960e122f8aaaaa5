"""What changes no bit: threads, the order in which clients finish, the chunk where every client computes alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import Stacked, Workers
from fedlama.engines.trainers.serial import SerialTrainer
from tests.engines.cases import assert_same, network, run

CHUNK_TOLERANCE = 1e-6
"""Largest difference, absolute and relative, that a chunk size may make on these runs of 12 local steps."""


def assert_same_bits(result: fl.Result, expected: fl.Result) -> None:
    assert all(torch.equal(result.model[name], value) for name, value in expected.model.items())
    assert [(one.loss, one.layers) for one in result.rounds] == [(one.loss, one.layers) for one in expected.rounds]
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        for client, values in theirs.client_models.items():
            assert all(torch.equal(ours.client_models[client][name], value) for name, value in values.items())


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5))


def drawing() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))


@pytest.mark.selection
@pytest.mark.parametrize("model", [network, dense, drawing])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_any_number_of_workers_gives_the_same_bits(model: Callable[[], nn.Module], threads: int) -> None:
    changes: dict[str, Any] = {"model": model(), "sampler": fl.AllClients()}
    assert_same_bits(run(Workers(threads=threads), **changes), run(Workers(threads=1), **changes))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_of_the_stacked_engine_with_one_client_at_a_time_give_the_same_bits(threads: int) -> None:
    changes: dict[str, Any] = {"model": dense(), "sampler": fl.AllClients()}
    assert_same_bits(run(Stacked(chunk=1, threads=threads), **changes), run(Stacked(chunk=1), **changes))


@pytest.mark.parametrize("model", [network, dense])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_a_chunk_changes_no_more_than_the_tolerance(model: Callable[[], nn.Module], chunk: int) -> None:
    changes: dict[str, Any] = {"model": model(), "sampler": fl.AllClients()}
    assert_same(run(Stacked(chunk=chunk), **changes), run(Stacked(), **changes), CHUNK_TOLERANCE)


@pytest.mark.parametrize("engine", ["loop", Stacked(chunk=2), Workers(threads=2)])
def test_twice_the_same_run_gives_the_same_bits(engine: Any) -> None:  # noqa: ANN401
    assert_same_bits(run(engine), run(engine))


def test_the_order_in_which_clients_finish_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"model": network(), "sampler": fl.AllClients()}
    expected = run(Workers(threads=5), **changes)
    finished: list[int] = []
    original = SerialTrainer.run

    def late(self: Any, rows: Any, *others: Any) -> Any:  # noqa: ANN401
        losses = original(self, rows, *others)
        time.sleep(0.02 * (5 - rows.clients[0]))  # the first client is the last to finish
        finished.append(rows.clients[0])
        return losses

    monkeypatch.setattr(SerialTrainer, "run", late)
    result = run(Workers(threads=5), **changes)
    assert finished[:5] != sorted(finished[:5])
    assert_same_bits(result, expected)


_PROGRAM = """
import hashlib, sys, torch
from tests.determinism.test_same_bits import dense, run
torch.set_num_threads(int(sys.argv[1]))
result = run("loop", model=dense())
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in result.model.values())).hexdigest())
"""


def test_a_small_model_does_not_depend_on_the_threads_of_the_process() -> None:
    digests = {
        subprocess.run([sys.executable, "-c", _PROGRAM, threads], capture_output=True, text=True, check=True).stdout
        for threads in ("1", "2", "4")
    }
    assert len(digests) == 1
