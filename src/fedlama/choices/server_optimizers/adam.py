"""Server Adam (FedAdam): Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.

As there, no bias correction is made and v starts at epsilon^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.server_optimizers.base import ServerOptimizerState
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, refuse


@register("server_optimizer")
@dataclass(frozen=True)
class ServerAdam:
    """m <- b1 m + (1 - b1) D; v <- b2 v + (1 - b2) D^2; u <- previous + rate * m / (sqrt(v) + epsilon).

    Args:
        learning_rate: Server learning rate.
        beta1: b1, in [0, 1).
        beta2: b2, in [0, 1).
        epsilon: The paper's tau (not an interval).
    """

    name: ClassVar[str] = "adam"
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        refuse(at_least(self, 0, "learning_rate", "epsilon") + between(self, 0, 1, "beta1", "beta2"))

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value."""
        change = average - previous
        first = optimizer_state.setdefault("first", torch.zeros_like(previous))
        second = optimizer_state.setdefault("second", torch.full_like(previous, self.epsilon**2))
        first.mul_(self.beta1).add_(change, alpha=1 - self.beta1)
        second.mul_(self.beta2).addcmul_(change, change, value=1 - self.beta2)
        return previous + self.learning_rate * first / (second.sqrt() + self.epsilon)
