"""The contract of server steps: how an average enters the global model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from fedlama.core.registry import register

ServerOptimizerState = dict[str, Tensor]
"""A tensor's buffers on the server, by name; empty at first."""


class ServerOptimizer(Protocol):
    """Applied to every trainable tensor of a layer when that layer is synchronised; statistics are replaced."""

    name: ClassVar[str]

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value.

        Args:
            previous: Global value before the round.
            average: Weighted average of the clients' values.
            optimizer_state: This tensor's buffers; updated in place.
        """


@register("server_optimizer")
@dataclass(frozen=True)
class Replace:
    """Take the average as it is."""

    name: ClassVar[str] = "replace"

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the average."""
        return average
