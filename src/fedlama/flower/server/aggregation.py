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

from fedlama.core.averaging import average_models, squared_norm, weighted_mean, wide_dtype
from fedlama.core.layers import Layer
from fedlama.engines.api import Average, Values

Aggregation = Literal["models", "sums"]


def from_models(layer: Layer, received: Sequence[Values], weights: Sequence[float]) -> Average:
    """Average single models in client order and measure their distances from the average.

    Args:
        layer: The layer.
        received: Its tensors, one entry per client.
        weights: p_i, summing to 1.
    """
    return Average(*average_models(layer, received, weights))


def from_sums(
    layer: Layer,
    received: Sequence[Values],
    weights: Sequence[float],
    squares: Sequence[float],
    reference: Mapping[str, Tensor],
) -> Average:
    """Average through sums alone; a protocol that delivers only the sums can replace the first two lines.

    Args:
        layer: The layer.
        received: Its tensors, one entry per client.
        weights: p_i, summing to 1.
        squares: ||x_i - r||^2 per client.
        reference: r, the values that were sent last.
    """
    means = {spec.name: weighted_mean([each[spec.name] for each in received], weights) for spec in layer.tensors}
    square = math.fsum(w * s for w, s in zip(weights, squares, strict=True))
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
    moved = sum(
        squared_norm(mean[spec.name].to(wide_dtype(spec.dtype)) - reference[spec.name].to(wide_dtype(spec.dtype)))
        for spec in layer.tensors
        if spec.trainable
    )
    return square - moved if math.isnan(square - moved) else max(square - moved, 0.0)
