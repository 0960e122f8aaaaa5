"""Server Yogi (FedYogi): Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.

The second moment moves towards D^2 by a step of (1 - beta2) D^2, however far away it is, so a few large changes do not
shrink the step as fast as in Adam. The defaults are those of server Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedlama.choices.server_optimizers.adam import ServerAdam
from fedlama.core.registry import register


@register("server_optimizer")
@dataclass(frozen=True)
class ServerYogi(ServerAdam):
    """Server Adam with v <- v - (1 - beta2) D^2 sign(v - D^2); D is average minus previous.

    All settings are those of :class:`~fedlama.choices.server_optimizers.adam.ServerAdam`.

    Example:
        >>> import torch
        >>> yogi = ServerYogi(learning_rate=0.1, beta1=0.0, beta2=0.75, epsilon=1.0)
        >>> yogi.apply(torch.tensor([1.0]), torch.tensor([3.0]), {})  # v = 1 + 0.25 * 4; 1 + 0.1 * 2 / (sqrt(2) + 1)
        tensor([1.0828])
    """

    name: ClassVar[str] = "yogi"

    def _advance(self, second: Tensor, change: Tensor) -> None:
        """Let the second moment take in a change, in place."""
        square = change.square()
        second.addcmul_(square, (second - square).sign(), value=self.beta2 - 1)
