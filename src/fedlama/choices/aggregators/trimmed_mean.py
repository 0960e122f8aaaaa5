"""The mean of each coordinate without its extremes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined
from fedlama.core.averaging import difference, integer_mean
from fedlama.core.layers import Layer
from fedlama.core.registry import register
from fedlama.core.validation import between, normalise_numbers, refuse


@register("aggregator")
@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """Every coordinate loses its largest and its smallest values; the rest is averaged.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates" (ICML 2018), Algorithm 1, option II. Every client counts the same there and here, whatever its number of
    samples. The discrepancy of a coordinate is the mean of the squared distances that remain.

    Args:
        share: Fraction of the clients that is cut off at each end, rounded down to whole clients, in [0, 0.5). To help
            against attackers it must be at least their fraction.

    Raises:
        ConfigError: The fraction is out of range.

    Example:
        >>> from fedlama.core.layers import TensorSpec
        >>> layer = Layer("w", (TensorSpec("w", (1,), torch.float32, trainable=True),), adaptive=True)
        >>> received = {"w": torch.tensor([[-900.0], [1.0], [2.0], [900.0]])}  # four clients
        >>> TrimmedMean(share=0.25).combine(layer, received, [0.25] * 4, {"w": torch.tensor([0.0])}).values
        {'w': tensor([1.5000])}
    """

    name: ClassVar[str] = "trimmed-mean"
    share: float = 0.25

    @property
    def orders_values(self) -> bool:
        """Extremes need an order."""
        return True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(between(self, 0, 0.5, "share"))

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Trim and average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        cut = int(self.share * len(weights))
        values, discrepancy = {}, 0.0
        for spec in layer.tensors:
            ordered = torch.sort(received[spec.name], dim=0).values[cut : len(weights) - cut]  # (clients, ...)
            if not spec.dtype.is_floating_point:
                equal = torch.full((len(ordered),), 1 / len(ordered), dtype=torch.float64)
                values[spec.name] = integer_mean(ordered, equal)
                continue
            kept = ordered.double()
            mean = kept.mean(0)
            values[spec.name] = mean.to(spec.dtype)
            if spec.trainable:
                discrepancy += float(difference(kept, mean).square().mean(0).sum())
        return Combined(values, discrepancy)
