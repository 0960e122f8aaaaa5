"""The contract of a chain's operations, and where their gradients go.

Activations come in two forms: flat, (clients, batch, features), and images, (batch, clients x channels, height,
width), in which a grouped convolution takes all clients at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedlama.engines.api import Values


class Sink:
    """Takes the gradients of one step: each is added to a target, which is first scaled.

    With target v, scale m and factor 1 this is a momentum update, with target x, scale 1 and factor -eta a plain SGD
    step; in both cases no gradient is ever stored.

    Args:
        targets: What to add to, by the parameter's name, (clients, ...); names that are missing are not trained.
        scales: By name, what the target is multiplied with first; 0 overwrites it.
        factor: What the gradient is multiplied with.
    """

    def __init__(self, targets: Values, scales: dict[str, float], factor: float) -> None:
        self._targets, self._scales, self.factor = targets, scales, factor

    def wants(self, name: str | None) -> bool:
        """Whether a parameter is trained."""
        return name in self._targets

    def add(self, name: str, gradient: Tensor) -> None:
        """Take a gradient, (clients, ...)."""
        target, scale = self._targets[name], self._scales[name]
        if scale == 0.0:
            torch.mul(gradient.view_as(target), self.factor, out=target)
        else:
            (target if scale == 1.0 else target.mul_(scale)).add_(gradient.view_as(target), alpha=self.factor)

    def add_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Take the gradient left @ right of a matrix per client without storing it."""
        self._targets[name].baddbmm_(left, right, beta=self._scales[name], alpha=self.factor)


class Draws(Protocol):
    """Gives dropout masks."""

    def mask(self, shape: Sequence[int], rate: float) -> list[Tensor]:
        """Return one mask per client, of one client's shape (batch, ...)."""


class Operation(Protocol):
    """One link of a chain. It keeps what its backward pass needs between the two calls."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""

    def bind(self, values: Values) -> None:
        """Use these stacked tensors, (clients, ...), from now on."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Compute the output."""

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Pass parameter gradients to the sink and return the input's gradient, or anything if it is not wanted.

        The gradient given may be overwritten.
        """
