"""Small federations that exercise every part of the engines' contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlama.choices.samplers import UniformSampler
from fedlama.choices.solvers import SGD
from fedlama.choices.strategies import FedLAMA
from fedlama.core.plan import Plan
from fedlama.core.records import Result
from fedlama.data.clients import TensorClients
from fedlama.data.datasets import DatasetClients
from fedlama.engines.api import EngineSetup, RoundOrder
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.trainers.base import LocalSteps
from fedlama.federation.federation import Federation


def network() -> nn.Module:
    """Convolution, BatchNorm and dense layers: 5-class logits from (B, 2, 6, 6)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 5),
    )


class RandomPictures:
    """A data set that draws a part of each sample from the global generators, as random crops do."""

    def __init__(self, client: int) -> None:
        self.client = client

    def __len__(self) -> int:
        return 6 + 3 * self.client

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        fixed = torch.arange(72, dtype=torch.float32).view(2, 6, 6).sin() * (1 + index + self.client)
        return fixed + 0.1 * torch.rand(2, 6, 6) + float(np.random.rand()), (index + self.client) % 5


def dataset_clients() -> DatasetClients:
    """Five clients of unequal sizes whose samples are read one by one."""
    return DatasetClients([RandomPictures(client) for client in range(5)], 4, short_clients=True)


def clients(sizes: tuple[int, ...] = (12, 10, 14, 12, 7), batch: int = 4, **settings: Any) -> TensorClients:  # noqa: ANN401
    """Clients of unequal sizes, so that batches and epochs end at different steps."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (sum(sizes), 2, 6, 6), generator=draw, dtype=torch.uint8)
    y = torch.randint(0, 5, (sum(sizes),), generator=draw)
    ends = np.cumsum((0, *sizes))
    rows = [np.arange(ends[i], ends[i + 1]) for i in range(len(sizes))]
    settings = {"prepare": lambda pixels: pixels.float() / 128 - 1} | settings
    return TensorClients(x, y, rows, batch, **settings)


def token_clients(sizes: tuple[int, ...] = (12, 10, 14, 12, 7), batch: int = 4, **settings: Any) -> TensorClients:  # noqa: ANN401
    """Clients of unequal sizes with sequences of 7 tokens out of 19, and the next token at every position."""
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(0, 19, (sum(sizes), 8), generator=draw)
    ends = np.cumsum((0, *sizes))
    rows = [np.arange(ends[i], ends[i + 1]) for i in range(len(sizes))]
    x, y = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    return TensorClients(x, y, rows, batch, **settings)


def order_of(
    cohort: Sequence[int], steps: int, values: Mapping[str, Tensor], round_index: int = 0, new_cohort: bool = False
) -> RoundOrder:
    """Return the order of a round in which all layers are trained and none is uploaded."""
    return RoundOrder(
        plan=Plan(round_index, frozenset(), {}, cycle_start=True),
        steps=steps,
        cohort=tuple(cohort),
        new_cohort=new_cohort,
        values=values,
        lacking=frozenset(),
    )


def local_steps(
    setup: EngineSetup, cohort: Cohort, steps: int, values: Mapping[str, Tensor], round_index: int = 0
) -> LocalSteps:
    """Return the local steps of a round in which all layers are trained."""
    return LocalSteps.of(setup, cohort.names, order_of(cohort.clients, steps, values, round_index))


def federation(engine: Any, **changes: Any) -> Federation:  # noqa: ANN401
    """Put together one small federation on an engine."""
    settings: dict[str, Any] = {
        "model": network(),
        "clients": clients(),
        "strategy": FedLAMA(base_interval=2, increase_factor=2),
        "local_steps": 12,
        "solver": SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.01),
        "sampler": UniformSampler(3),
        "engine": engine,
        "keep_client_models": True,
    }
    return Federation(**(settings | changes))


def run(engine: Any, **changes: Any) -> Result:  # noqa: ANN401
    """Run one small federation on an engine."""
    return federation(engine, **changes).run()


def assert_same(result: Result, expected: Result, tolerance: float = 2e-5) -> None:
    """Compare every number that two runs report, models included."""
    assert [record.cohort for record in result.rounds] == [record.cohort for record in expected.rounds]
    assert result.cost == expected.cost
    # A discrepancy is made of differences: one float16 step of one of four numbers changes it by half a percent.
    apart = max(1e-3, 2 * tolerance) if tolerance > 1e-9 else 1e-9
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        assert abs(ours.loss - theirs.loss) <= tolerance * max(1.0, abs(theirs.loss))
        for name, layer in theirs.layers.items():
            assert ours.layers[name].interval == layer.interval
            measured = ours.layers[name].discrepancy
            if layer.discrepancy is not None and measured is not None:
                assert abs(measured - layer.discrepancy) <= apart * layer.discrepancy + 1e-9
        for client, values in theirs.client_models.items():
            for name, value in values.items():
                torch.testing.assert_close(ours.client_models[client][name], value, atol=tolerance, rtol=tolerance)
    for name, value in expected.model.items():
        torch.testing.assert_close(result.model[name], value, atol=tolerance, rtol=tolerance)
