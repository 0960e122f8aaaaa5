"""A layer's average and discrepancy: from single models, or from sums alone.

For any common reference r and u = sum_i p_i x_i with sum_i p_i = 1:
sum_i p_i ||u - x_i||^2 = sum_i p_i ||x_i - r||^2 - ||u - r||^2. Each client can compute its own ||x_i - r||^2 for
r = the value it received last, so a server that sees only sum_i p_i x_i and sum_i p_i ||x_i - r||^2 can compute the
discrepancy. With r close to the x_i the subtraction loses few digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from fedlama.core.averaging import average_models
from fedlama.core.layers import Layer
from fedlama.engines.api import Average, Values
from fedlama.flower.secure.fixed_point import FixedPoint, mean_of, squared_change, total, weighted_change

Aggregation = Literal["models", "sums", "secure"]
"""How the server averages: single models one after another; sums in fixed point of what arrives in clear; or the same
sums, of masked uploads."""


def from_models(layer: Layer, received: Sequence[Values], weights: Sequence[float]) -> Average:
    """Average single models in client order and measure their distances from the average.

    Args:
        layer: The layer.
        received: Its tensors, one entry per client.
        weights: p_i, summing to 1.
    """
    return Average(*average_models(layer, received, weights))


def summed(
    layer: Layer,
    received: Sequence[Values],
    weights: Sequence[float],
    squares: Sequence[float],
    reference: Mapping[str, Tensor],
) -> FixedPoint:
    """Add up clients' weighted changes in fixed point; secure aggregation delivers the same sum, and no single change.

    Args:
        layer: The layer.
        received: Its tensors, one entry per client.
        weights: p_i.
        squares: ||x_i - r||^2 per client.
        reference: r, the values that were sent last.

    Raises:
        DataError: A value changed by more than fixed point can hold.
    """
    clients = zip(received, weights, squares, strict=True)
    return total(weighted_change(layer, values, reference, weight, square) for values, weight, square in clients)


def from_sums(layer: Layer, sums: FixedPoint, weights: Sequence[float], reference: Mapping[str, Tensor]) -> Average:
    """Average through sums alone.

    Args:
        layer: The layer.
        sums: The sum of the clients' weighted changes.
        weights: p_i of the clients that are in it.
        reference: r, the values that were sent last.
    """
    means, square = mean_of(layer, sums, weights, reference)
    return Average(means, discrepancy_from_sums(layer, means, square, reference))


def discrepancy_from_sums(
    layer: Layer, mean: Mapping[str, Tensor], square: float, reference: Mapping[str, Tensor]
) -> float:
    """Return sum_i p_i ||u - x_i||^2 from u, sum_i p_i ||x_i - r||^2 and r.

    Args:
        layer: The layer.
        mean: u.
        square: sum_i p_i ||x_i - r||^2.
        reference: r.

    Returns:
        The discrepancy; rounding cannot make it negative.
    """
    moved = squared_change(layer, mean, reference)
    return square - moved if math.isnan(square - moved) else max(square - moved, 0.0)
