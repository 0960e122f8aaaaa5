"""Server momentum (FedAvgM).

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", arXiv
1909.06335.
"""

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
class ServerMomentum(LayerSettings):
    """v <- momentum * v + (average - previous); u <- previous + learning_rate * v.

    In the long run the global model moves by learning_rate / (1 - momentum) times the average's movement: twice as far
    with the defaults. With a momentum of 0.9 the factor is 10, which raised the final loss in all settings tried.

    Args:
        learning_rate: Server learning rate, 0 or more.
        momentum: In [0, 1).
        per_layer: Other settings for some layers, by name or pattern; the first entry that matches a layer counts.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> state = {}
        >>> ServerMomentum(learning_rate=0.5, momentum=0.5).apply(torch.tensor([1.0]), torch.tensor([3.0]), state)
        tensor([2.])
        >>> state
        {'velocity': tensor([2.])}
    """

    name: ClassVar[str] = "momentum"
    learning_rate: float = 1.0
    momentum: float = 0.5

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 0, "learning_rate") + between(self, 0, 1, "momentum") + self.layer_problems())

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value; see :meth:`fedlama.choices.server_optimizers.base.ServerOptimizer.apply`."""
        velocity = optimizer_state.setdefault("velocity", torch.zeros_like(previous))
        velocity.mul_(self.momentum).add_(average - previous)
        return previous + self.learning_rate * velocity
