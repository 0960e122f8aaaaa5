"""No server optimizer: the average becomes the global model, as in FedAvg and in the FedLAMA paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedlama.choices.server_optimizers.base import ServerOptimizer, ServerOptimizerState
from fedlama.core.registry import register


@register("server_optimizer")
@dataclass(frozen=True)
class Replace(ServerOptimizer):
    """Take the average as it is.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.

    Example:
        >>> import torch
        >>> Replace().apply(torch.tensor([1.0]), torch.tensor([3.0]), {})
        tensor([3.])
    """

    name: ClassVar[str] = "replace"

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the average."""
        return average
