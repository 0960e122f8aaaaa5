"""The median of each coordinate."""

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

_HALVES = torch.tensor([0.5, 0.5], dtype=torch.float64)


@register("aggregator")
@dataclass(frozen=True)
class Median(Aggregator):
    """Every coordinate becomes the median over the clients; with an even number, the mean of the middle two.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates" (ICML 2018), Algorithm 1, option I. Every client counts the same there and here, whatever its number of
    samples. The discrepancy of a coordinate is the median of its squared distances to that median.

    Example:
        >>> from fedlama.core.layers import TensorSpec
        >>> layer = Layer("w", (TensorSpec("w", (1,), torch.float32, trainable=True),), adaptive=True)
        >>> received = {"w": torch.tensor([[1.0], [2.0], [900.0]])}  # three clients, one of them an attacker
        >>> Median().combine(layer, received, [1 / 3] * 3, {"w": torch.tensor([0.0])}).values
        {'w': tensor([2.])}
    """

    name: ClassVar[str] = "median"

    @property
    def orders_values(self) -> bool:
        """A median needs an order."""
        return True

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Take the medians; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        values, discrepancy = {}, 0.0
        for spec in layer.tensors:
            if not spec.dtype.is_floating_point:
                values[spec.name] = integer_mean(_middle(received[spec.name]), _HALVES)
                continue
            rows = received[spec.name].double()  # (clients, ...)
            middle = _median(rows)
            values[spec.name] = middle.to(spec.dtype)
            if spec.trainable:
                discrepancy += float(_median(difference(rows, middle).square()).sum())
        return Combined(values, discrepancy)


def _median(rows: Tensor) -> Tensor:
    """Return the median over the first dimension; torch.median would take the lower of the middle two."""
    middle = _middle(rows)
    return (middle[0] + middle[1]) / 2


def _middle(rows: Tensor) -> Tensor:
    """Return the two values in the middle of the first dimension, (2, ...); the same twice for an odd number."""
    ordered, count = torch.sort(rows, dim=0).values, len(rows)
    return torch.stack([ordered[(count - 1) // 2], ordered[count // 2]])
