"""The plain weighted mean: no guard at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.guards.base import Combined, weighted
from fedlama.layers import Layer


@dataclass(frozen=True)
class NoGuard:
    """Every client counts by its weight, as in the paper. Engines average by themselves then, without a guard."""

    name: ClassVar[str] = "none"

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Average; see :meth:`fedlama.guards.base.Guard.combine`."""
        device = next(iter(received.values())).device
        return weighted(layer, received, torch.tensor(weights, dtype=torch.float64, device=device))
