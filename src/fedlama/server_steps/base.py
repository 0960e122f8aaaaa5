"""The contract of server steps: how an average enters the global model."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

ServerMemory = dict[str, Tensor]
"""A tensor's buffers on the server, by name; empty at first."""


class ServerStep(Protocol):
    """Applied to every trainable tensor of a layer when that layer is synchronised; statistics are replaced."""

    name: ClassVar[str]

    def apply(self, previous: Tensor, average: Tensor, memory: ServerMemory) -> Tensor:
        """Return the new global value.

        Args:
            previous: Global value before the round.
            average: Weighted average of the clients' values.
            memory: This tensor's buffers; updated in place.
        """
