"""Gradient accumulation gives the whole batch's result, up to rounding, in every engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.errors import ConfigError
from tests.core.helpers import FEATURES, mlp, skewed_clients
from tests.engines.cases import assert_same, federation, run

ENGINES: list[Any] = ["loop", Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(), fl.Auto()]
DENSE: dict[str, Any] = {"clients": skewed_clients(5), "strategy": fl.FedAvg(2), "local_steps": 8}


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_parts_give_the_whole_batch(engine: Any, size: int) -> None:  # noqa: ANN401
    """Batches of 5 and short last ones: parts of 2, 2 and 1, whose weights are their sizes."""
    settings: dict[str, Any] = {**DENSE, "model": mlp().float(), "solver": fl.SGD(0.05, momentum=0.9)}
    assert_same(run(engine, micro_batch_size=size, **settings), run("loop", **settings))


def test_in_float64_the_parts_differ_by_rounding_alone() -> None:
    settings: dict[str, Any] = {**DENSE, "clients": skewed_clients(5, dtype=torch.float64), "model": mlp()}
    assert_same(run("loop", micro_batch_size=2, **settings), run("loop", **settings), tolerance=1e-12)


@pytest.mark.parametrize("engine", ENGINES[1:], ids=str)
def test_engines_agree_with_batch_norm_and_dropout(engine: Any) -> None:  # noqa: ANN401
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    settings: dict[str, Any] = {**DENSE, "clients": skewed_clients(3, batch_size=10), "model": model}
    settings |= {"clients": [fl.ClientData(c.x[:20], c.y[:20], 10) for c in skewed_clients(6)[3:]]}
    settings |= {"micro_batch_size": 5, "sampler": fl.AllClients()}
    assert_same(run(engine, **settings), run("loop", **settings))


def test_weights_by_hand() -> None:
    """Sums 1 + 2 + 3 as parts of 2 and 1: means 1.5 and 3, weights 2/3 and 1/3."""
    seen = []

    def compute(part: Any) -> LossAndGradients:  # noqa: ANN401
        seen.append(len(part))
        return LossAndGradients(part.mean(), [part.mean().reshape(1)])

    loss, (gradient,) = accumulated(torch.tensor([1.0, 2.0, 3.0]), 2, compute)
    assert seen == [2, 1]
    assert (float(loss), float(gradient)) == (2.0, 2.0)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_sizes_that_are_refused(size: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="micro_batch_size"):
        fl.Run(federation("loop", micro_batch_size=size))


def test_torch_compiled_steps_refuse_parts() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size is 2"):
        fl.Run(federation(Stacked(compile_steps=True), micro_batch_size=2))
