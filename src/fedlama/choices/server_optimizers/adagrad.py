"""Server Adagrad (FedAdagrad): Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.server_optimizers.base import LayerSettings, ServerOptimizerState
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, refuse


@register("server_optimizer")
@dataclass(frozen=True)
class ServerAdagrad(LayerSettings):
    """m <- beta1 m + (1 - beta1) D; v <- v + D^2; u <- previous + learning_rate * m / (sqrt(v) + epsilon).

    D is average minus previous, and v starts at epsilon^2.

    Args:
        learning_rate: Server learning rate, 0 or more.
        beta1: Decay of the first moment, in [0, 1); 0 as in the source's experiments.
        epsilon: Added to the root of the sum, 0 or more; the adaptivity tau of the source.
        per_layer: Other settings for some layers, by name or pattern; the first entry that matches a layer counts.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> adagrad = ServerAdagrad(learning_rate=0.1, epsilon=1.5)
        >>> adagrad.apply(torch.tensor([1.0]), torch.tensor([3.0]), {})  # v = 2.25 + 4; 1 + 0.1 * 2 / (2.5 + 1.5)
        tensor([1.0500])
    """

    name: ClassVar[str] = "adagrad"
    learning_rate: float = 0.01
    beta1: float = 0.0
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 0, "learning_rate", "epsilon") + between(self, 0, 1, "beta1") + self.layer_problems())

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value; see :meth:`fedlama.choices.server_optimizers.base.ServerOptimizer.apply`."""
        change = average - previous
        first = optimizer_state.setdefault("first", torch.zeros_like(previous))
        second = optimizer_state.setdefault("second", torch.full_like(previous, self.epsilon**2))
        first.mul_(self.beta1).add_(change, alpha=1 - self.beta1)
        second.addcmul_(change, change)
        return previous + self.learning_rate * first / (second.sqrt() + self.epsilon)
