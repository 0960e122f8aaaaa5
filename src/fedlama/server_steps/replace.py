"""The average becomes the global value, as in FedAvg and FedLAMA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedlama.server_steps.base import ServerMemory


@dataclass(frozen=True)
class Replace:
    """Take the average as it is."""

    name: ClassVar[str] = "replace"

    def apply(self, previous: Tensor, average: Tensor, memory: ServerMemory) -> Tensor:
        """Return the average."""
        return average
