"""The loop that most people write first: load_state_dict, a new optimizer, a DataLoader per client, then an average."""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.timing import repeat
from benchmarks.workloads import Workload, loss


def measure(workload: Workload, seconds: float) -> list[float]:
    """Time rounds."""
    x, y, rows = workload.data()
    datasets = [TensorDataset(x[torch.from_numpy(r)], y[torch.from_numpy(r)]) for r in rows[: workload.cohort]]
    model = workload.build().train()
    state = copy.deepcopy(model.state_dict())

    def one_round() -> None:
        sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in state.items()}
        for dataset in datasets:
            model.load_state_dict(state)
            optimiser = torch.optim.SGD(model.parameters(), workload.learning_rate, momentum=workload.momentum)
            for inputs, classes in DataLoader(dataset, workload.batch, shuffle=True):
                optimiser.zero_grad()
                loss(model(inputs), classes).backward()
                optimiser.step()
            for name, value in model.state_dict().items():
                sums[name] += value / len(datasets)
        for name, value in sums.items():
            state[name].copy_(value)

    return repeat(one_round, seconds)
