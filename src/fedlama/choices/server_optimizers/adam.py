"""Server Adam (FedAdam): Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.

As there, no bias correction is made and v starts at epsilon^2. The default beta1 is smaller than the 0.9 of that paper,
which raised the final loss in short runs where 0.5 did not; docs/log.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.server_optimizers.base import LayerSettings, ServerOptimizerState
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, refuse


@register("server_optimizer")
@dataclass(frozen=True)
class ServerAdam(LayerSettings):
    """m <- beta1 m + (1 - beta1) D; v <- beta2 v + (1 - beta2) D^2; u <- previous + rate * m / (sqrt(v) + epsilon).

    D is average minus previous.

    Args:
        learning_rate: Server learning rate, 0 or more.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        epsilon: Added to the root of the second moment, 0 or more; the adaptivity tau of the source.
        start: What the second moment starts at, 0 or more; None for epsilon^2, as in the source. With 0 it is the
            server of Adp-Fed in Karimi et al. (UAI 2023, Algorithm 2).
        per_layer: Other settings for some layers, by name or pattern; the first entry that matches a layer counts.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> adam = ServerAdam(learning_rate=0.1, beta1=0.0, beta2=0.0, epsilon=0.5)
        >>> adam.apply(torch.tensor([1.0]), torch.tensor([3.0]), {})  # 1 + 0.1 * 2 / (2 + 0.5)
        tensor([1.0800])
    """

    name: ClassVar[str] = "adam"
    learning_rate: float = 0.01
    beta1: float = 0.5
    beta2: float = 0.99
    epsilon: float = 1e-3
    start: float | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        limited = ["learning_rate", "epsilon", *(["start"] if self.start is not None else [])]
        refuse(at_least(self, 0, *limited) + between(self, 0, 1, "beta1", "beta2") + self.layer_problems())

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value; see :meth:`fedlama.choices.server_optimizers.base.ServerOptimizer.apply`."""
        change = average - previous
        # Checkpoints of the first version hold the moments under these names.
        first = optimizer_state.setdefault("first", torch.zeros_like(previous))
        start = self.epsilon**2 if self.start is None else self.start
        second = optimizer_state.setdefault("second", torch.full_like(previous, start))
        first.mul_(self.beta1).add_(change, alpha=1 - self.beta1)
        self._advance(second, change)
        return previous + self.learning_rate * first / (second.sqrt() + self.epsilon)

    def _advance(self, second: Tensor, change: Tensor) -> None:
        """Let the second moment take in a change, in place."""
        second.mul_(self.beta2).addcmul_(change, change, value=1 - self.beta2)
