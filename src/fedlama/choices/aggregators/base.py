"""The contract of guards: how the clients' values of one layer become one value.

A guard sees single clients' values, so it cannot work where only sums are seen. Values that are not finite never get
this far. Guards weaken what a few clients can do; they do not make training private, and with as many attackers as
honest clients none of them helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedlama.core.layers import Layer
from fedlama.core.registry import register


@dataclass(frozen=True)
class Combined:
    """What a guard makes of a layer.

    Attributes:
        values: The layer's tensors.
        discrepancy: sum_i p_i ||u - x_i||^2 over the trainable parameters, or the guard's counterpart of it, which
            attackers move as little as they move the values.
        refused: Rows that the guard left out altogether.
    """

    values: dict[str, Tensor]
    discrepancy: float
    refused: tuple[int, ...] = ()


class Aggregator(Protocol):
    """Combines a layer's values; derive from it, so that the class attributes have their defaults.

    Attributes:
        name: The aggregator's name in experiments.
        is_plain_mean: Whether it is the weighted mean, which engines compute themselves in one pass.
    """

    name: ClassVar[str]
    is_plain_mean: ClassVar[bool] = False

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Combine a layer.

        Args:
            layer: The layer.
            received: Its tensors, (clients, ...), all finite.
            weights: p_i, summing to 1.
            reference: The layer's global value before, which all clients once started from.

        Returns:
            The combination.
        """


def weighted(layer: Layer, received: Mapping[str, Tensor], weights: Tensor) -> Combined:
    """Return the weighted mean and the discrepancy of a layer.

    Args:
        layer: The layer.
        received: Its tensors, (clients, ...).
        weights: p_i, float64, summing to 1.
    """
    means, discrepancy = {}, 0.0
    for spec in layer.tensors:
        rows = received[spec.name].double().reshape(len(weights), -1)
        mean = weights @ rows
        means[spec.name] = as_dtype(mean.view(received[spec.name].shape[1:]), received[spec.name].dtype)
        if spec.trainable:
            discrepancy += float(weights @ (rows - mean).square().sum(1))
    return Combined(means, discrepancy)


def as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float64 tensor in a tensor's own dtype; whole numbers are rounded."""
    return value.to(dtype) if dtype.is_floating_point else value.round().to(dtype)


@register("aggregator")
@dataclass(frozen=True)
class Mean(Aggregator):
    """Every client counts by its weight, as in the paper. Engines average by themselves then, without a guard."""

    name: ClassVar[str] = "mean"
    is_plain_mean: ClassVar[bool] = True

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        device = next(iter(received.values())).device
        return weighted(layer, received, torch.tensor(weights, dtype=torch.float64, device=device))
