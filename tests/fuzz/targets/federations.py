"""The smallest federation that has everything: two clients, momentum, a server optimizer, a frozen recent history."""

from __future__ import annotations

import torch
from torch import nn

import fedlama as fl


def small(seed: int = 0) -> fl.Federation:
    """Four rounds of FedLAMA on two clients with a model of 23 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        clients = [fl.ClientData(torch.randn(6, 3), torch.randint(2, (6,)), 3) for _ in range(2)]
        test = fl.TestSet(torch.randn(4, 3), torch.randint(2, (4,)))
    return fl.Federation(
        net,
        clients,
        fl.FedLAMA(1, 2),
        4,
        solver=fl.SGD(0.1, momentum=0.9),
        server_optimizer=fl.ServerMomentum(),
        test_set=test,
        seed=seed,
        engine="loop",
    )
