"""An outer step with Nesterov's momentum, as DiLoCo takes it.

Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", arXiv 2311.08105, Algorithm 1.
The default momentum is smaller than DiLoCo's 0.9, which raised the final loss in short runs where 0.5 lowered it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.server_optimizers.base import ServerOptimizerState
from fedlama.choices.server_optimizers.momentum import ServerMomentum
from fedlama.core.registry import register


@register("server_optimizer")
@dataclass(frozen=True)
class ServerNesterov(ServerMomentum):
    """m <- momentum * m + D; u <- previous + learning_rate * (D + momentum * m), with D = average - previous.

    In the long run the global model moves by learning_rate / (1 - momentum) times the average's movement, 1.4 with the
    defaults. The step costs no bytes. Every tensor has a momentum of its own, which advances only when the tensor's
    layer is synchronised.

    Args:
        learning_rate: Server learning rate eta, 0 or more.
        momentum: mu, in [0, 1).
        per_layer: Other settings for some layers, by name or pattern; the first entry that matches a layer counts.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> state = {}
        >>> nesterov = ServerNesterov(learning_rate=0.5, momentum=0.5)
        >>> nesterov.apply(torch.tensor([1.0]), torch.tensor([3.0]), state)  # 1 + 0.5 * (2 + 0.5 * 2)
        tensor([2.5000])
        >>> state
        {'velocity': tensor([2.])}
    """

    name: ClassVar[str] = "nesterov"
    learning_rate: float = 0.7
    momentum: float = 0.5

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value; see :meth:`fedlama.choices.server_optimizers.base.ServerOptimizer.apply`."""
        change = average - previous
        velocity = optimizer_state.setdefault("velocity", torch.zeros_like(previous))
        velocity.mul_(self.momentum).add_(change)
        return previous + self.learning_rate * (change + self.momentum * velocity)
