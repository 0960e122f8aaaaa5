"""The weighted mean of the paper: every client counts by its weight p_i."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined
from fedlama.core.averaging import average_rows
from fedlama.core.layers import Layer
from fedlama.core.registry import register


@register("aggregator")
@dataclass(frozen=True)
class Mean(Aggregator):
    """Average by the client weights, with no protection against poisoned updates.

    Engines compute this mean by themselves, in the way that suits their storage, and do not call :meth:`combine`.

    Example:
        >>> from fedlama.core.layers import TensorSpec
        >>> layer = Layer("w", (TensorSpec("w", (1,), torch.float32, trainable=True),), adaptive=True)
        >>> received = {"w": torch.tensor([[0.0], [4.0]])}  # two clients
        >>> Mean().combine(layer, received, [0.75, 0.25], {"w": torch.tensor([1.0])})
        Combined(values={'w': tensor([1.])}, discrepancy=3.0, refused=())
    """

    name: ClassVar[str] = "mean"

    @property
    def is_plain_mean(self) -> bool:
        """True, unless a subclass combines in another way."""
        return type(self).combine is Mean.combine

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        device = next(iter(received.values())).device
        return Combined(*average_rows(layer, received, torch.tensor(weights, dtype=torch.float64, device=device)))
