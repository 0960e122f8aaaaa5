"""A user's file: data, a model and tasks of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

import fedlama as fl


def curve(rows: int = 240) -> fl.data.Dataset:
    """Numbers to predict."""
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(rows, 2, generator=draw) * 2 - 1
    y = torch.sin(2 * x[:, 0]) + x[:, 1]
    return fl.data.Dataset("curve", x[40:], y[40:], x[:40], y[:40], classes=1)


def net() -> nn.Module:
    """Return a small network."""
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


@fl.register("task", "pinball")
@dataclass(frozen=True)
class Pinball(fl.Task):
    """The loss of a quantile, and how many targets are below the prediction."""

    name: ClassVar[str] = "pinball"
    primary = "mae"
    direction = "lower"
    quantile: float = 0.5

    def loss(self, output: Tensor, batch: Any) -> Tensor:  # noqa: ANN401
        """Return the mean."""
        error = self.target(batch) - output[:, 0]
        return torch.maximum(self.quantile * error, (self.quantile - 1) * error).mean()

    def metrics(self) -> dict[str, Any]:
        """Return two metrics."""
        from torchmetrics.aggregation import MeanMetric
        from torchmetrics.regression import MeanAbsoluteError

        return {"mae": MeanAbsoluteError(), "below": MeanMetric()}

    def update(self, metrics: Any, output: Tensor, batch: Any, loss: Tensor) -> None:  # noqa: ANN401
        """Update both."""
        metrics["mae"].update(output[:, 0], self.target(batch))
        metrics["below"].update((self.target(batch) < output[:, 0]).float())


def scaled(output: Tensor, batch: tuple[Tensor, Tensor], scale: float = 1.0) -> Tensor:
    """A loss alone."""
    return scale * functional.mse_loss(output[:, 0], batch[1])


class NoLoss(fl.Task):
    """A class that is not a dataclass."""


@dataclass(frozen=True)
class Lacking(fl.Task):
    """A task without a loss."""

    name: ClassVar[str] = "lacking"
