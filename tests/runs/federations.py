"""A federation as a user's module makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

import fedlama as fl

ROUNDS = 24


class Net(nn.Module):
    """A network with a layer that is normalised, so that there are buffers too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(torch.relu(self.first(self.norm(x))))
        return logits


def make(seed: int = 0, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """Make a federation whose data, partition and initial weights a seed decides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(120, 6, generator=generator)
    y = torch.randint(0, 3, (120,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Net()
    federation = fl.Federation(
        model=model,
        clients=[fl.ClientData(x[i:90:6], y[i:90:6], batch_size=4) for i in range(6)],
        strategy=fl.FedLAMA(2, increase_factor=2),
        local_steps=2 * ROUNDS,
        solver=fl.SGD(learning_rate=0.1, momentum=0.9),
        codec=fl.Differences(bits=4),
        server_optimizer=fl.ServerMomentum(),
        test_set=fl.TestSet(x[90:], y[90:]),
        seed=seed,
    )
    return replace(federation, **changes)
