"""A federation that learns its clients' labels, and held-out data with other ones: its validation soon gets worse."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fedlama as fl
from fedlama.engines import ENGINES

ENGINES_HERE = sorted(set(ENGINES) - {"distributed"})  # that one needs a process group


def drawn(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 6, generator=draw), torch.randint(3, (samples,), generator=draw)


def held_out(seed: int, samples: int = 40) -> fl.TestSet:
    return fl.TestSet(*drawn(samples, seed))


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def federation(engine: Any = "loop", **changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    sizes = [8, 10, 12, 14]
    clients = [
        fl.ClientData(*drawn(size, client), 4, test=drawn(5 + client, 50 + client) if client != 2 else None)
        for client, size in enumerate(sizes)
    ]
    settings: dict[str, Any] = {
        "strategy": fl.FedLAMA(2, 2),
        "local_steps": 40,
        "solver": fl.SGD(0.2, momentum=0.5),
        "test_set": held_out(20),
        "validation_set": held_out(30),
        "early_stopping": fl.EarlyStopping(patience=2),
        "evaluate_every": 4,
    }
    return fl.Federation(net(), clients, engine=engine, **(settings | changes))
