"""The limit: one model trained centrally with batches of 512, channels-last where that is faster.

The seconds are those of as many samples as a federated round sees.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.timing import repeat
from benchmarks.workloads import Workload, loss
from fedlama.engines.cohort.storage import keep_memory

BATCH = 512


def measure(workload: Workload, seconds: float) -> list[float]:
    """Time steps in both layouts; return the faster one's."""
    keep_memory()
    both = [_steps(workload, seconds / 2, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    scale = workload.cohort * workload.samples / BATCH
    return [scale * step_seconds for step_seconds in min(both, key=lambda taken: sorted(taken)[len(taken) // 2])]


def _steps(workload: Workload, seconds: float, layout: torch.memory_format) -> list[float]:
    model: nn.Module = workload.build().train().to(memory_format=layout)  # type: ignore[call-overload]
    x, y = workload.drawn(BATCH)
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    optimiser = torch.optim.SGD(model.parameters(), workload.learning_rate, momentum=workload.momentum)

    def step() -> None:
        optimiser.zero_grad()
        loss(model(x), y).backward()
        optimiser.step()

    return repeat(step, seconds)
