"""The workloads: the same model, data, optimiser and rounds for every side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlama.models import leaf_cnn, mlp, resnet20, small_cnn


def _pfl_cnn() -> nn.Module:
    """The two-convolution network of pfl-research's CIFAR-10 benchmark, with its dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


@dataclass(frozen=True)
class Workload:
    """What one round consists of: every active client takes `steps` steps on `steps * batch` samples of its own.

    Attributes:
        model: Builds the model.
        shape: One input.
        classes: Number of classes.
        batch: Samples per local step.
        steps: Local steps per round.
        population: Clients in all.
        cohort: Clients per round.
        momentum: Of the clients' SGD.
        learning_rate: Of the clients' SGD.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: int
    population: int
    cohort: int
    momentum: float = 0.9
    learning_rate: float = 0.01

    @property
    def samples(self) -> int:
        """Samples of one client."""
        return self.steps * self.batch

    def build(self) -> nn.Module:
        """Build the model with seeded weights."""
        torch.manual_seed(0)
        return self.model()

    def data(self) -> tuple[Tensor, Tensor, list[np.ndarray]]:
        """Return inputs and classes of a shared pool, and every client's rows of it; values do not matter."""
        pool = min(self.population * self.samples, 4096)
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(pool, *self.shape, generator=draw)
        y = torch.randint(0, self.classes, (pool,), generator=draw)
        rows = np.random.default_rng(0).integers(0, pool, (self.population, self.samples))
        return x, y, list(rows)


WORKLOADS = {
    "W1": Workload(resnet20, (3, 32, 32), 10, 32, 3, 4, 4),
    "W2": Workload(leaf_cnn, (1, 28, 28), 62, 20, 5, 8, 8),
    "W2-512": Workload(lambda: small_cnn(1, 28, 62, (32, 64), 512), (1, 28, 28), 62, 20, 5, 8, 8),
    "W3": Workload(lambda: mlp(64, (64,), 10), (1, 8, 8), 10, 16, 20, 64, 64),
    "W3c": Workload(lambda: small_cnn(1, 8, 10, (16, 32), 64), (1, 8, 8), 10, 16, 20, 64, 64),
    "W4": Workload(_pfl_cnn, (3, 32, 32), 10, 10, 5, 1000, 50, momentum=0.0, learning_rate=0.1),
}
