"""Weighted means and discrepancies in plain PyTorch: the definitions that all faster ways are tested against.

====================  =========================================  ===================================================
function              for                                        arithmetic
====================  =========================================  ===================================================
``average_models``    the loop engine, and a deployment's        client after client, in each tensor's own dtype, so
                      server, whose models arrive one by one     that no stack of models is needed; squares are added
                                                                 up in float64
``average_rows``      aggregators, which have the clients'       float64 throughout: hostile values near the limit of
                      values of a layer in one stack             float32 must not overflow when they are squared
====================  =========================================  ===================================================

Real and complex tensors are averaged in their dtype; integers and booleans in float64, rounded, and exactly where
float64 does not hold them. Rows that are all equal average to themselves in an element that is infinite, such as the
-inf of a mask, where a difference from the mean would be NaN.

The two agree to the rounding of the tensors' dtype, not to the last bit, which is why both exist. The stacked engine's
counterpart is :mod:`fedlama.engines.cohort.averaging`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedlama.core.layers import Layer

EXACT_IN_FLOAT64 = 2**53
"""The largest magnitude up to which float64 holds every integer."""


def average_models(
    layer: Layer, received: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> tuple[dict[str, Tensor], float]:
    """Average a layer over clients, one after another, and measure their distances from the average.

    Args:
        layer: The layer.
        received: Its tensors by name, one mapping per client.
        weights: p_i, summing to 1.

    Returns:
        u = sum_i p_i x_i by tensor name, and the discrepancy sum_i p_i ||u - x_i||^2 over trainable parameters.
    """
    means: dict[str, Tensor] = {}
    discrepancy = 0.0
    for spec in layer.tensors:
        values = [tensors[spec.name] for tensors in received]
        mean = means[spec.name] = weighted_mean(values, weights)
        if spec.trainable:
            discrepancy += sum(w * squared_distance(value, mean) for w, value in zip(weights, values, strict=True))
    return means, discrepancy


def average_rows(layer: Layer, received: Mapping[str, Tensor], weights: Tensor) -> tuple[dict[str, Tensor], float]:
    """Average a layer over the rows of stacked tensors in float64, and measure their distances from the average.

    Args:
        layer: The layer.
        received: Its tensors by name, (clients, ...).
        weights: p_i, float64 of shape (clients,), summing to 1.

    Returns:
        As :func:`average_models`.
    """
    means: dict[str, Tensor] = {}
    discrepancy = 0.0
    for spec in layer.tensors:
        value = received[spec.name]
        if not value.is_floating_point() and not value.is_complex():
            means[spec.name] = integer_mean(value, weights)
            continue
        rows = value.to(wide_dtype(value.dtype)).reshape(len(weights), -1)
        mean = weights.to(rows.dtype) @ rows
        means[spec.name] = mean.view(value.shape[1:]).to(value.dtype)
        if spec.trainable:
            discrepancy += float(weights @ difference(rows, mean).abs().square().sum(1))
    return means, discrepancy


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i p_i x_i, added up in order; integers as in :func:`integer_mean`.

    Args:
        values: One tensor per client, of one shape and dtype.
        weights: p_i, summing to 1.

    >>> weighted_mean([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], [0.25, 0.75])
    tensor([2.5000, 5.0000])
    """
    if not values[0].is_floating_point() and not values[0].is_complex():
        return integer_mean(torch.stack(list(values)), torch.tensor(weights, dtype=torch.float64))
    total = torch.zeros_like(values[0])
    for value, weight in zip(values, weights, strict=True):
        total.add_(value, alpha=weight)
    return total


def integer_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of integers or booleans, rounded half to even.

    Args:
        rows: x_i, (clients, ...), of an integer or boolean dtype.
        weights: p_i, float64 of shape (clients,), summing to 1.

    Returns:
        The mean, of one client's shape and the dtype of `rows`. Values beyond 2^53, which float64 does not hold, are
        averaged as differences from the first client's.

    >>> integer_mean(torch.tensor([[2**60 + 1], [2**60 + 3]]), torch.tensor([0.5, 0.5], dtype=torch.float64)) - 2**60
    tensor([2])
    """
    first, shares = rows[0], weights.to(rows.device)
    wide = rows.to(torch.float64)
    if rows.device.type != "cpu":
        return _integer_mean_on_device(rows, wide, shares)
    total = torch.zeros_like(wide[0])
    if not (wide.abs() > EXACT_IN_FLOAT64).any():
        for value, share in zip(wide, shares.tolist(), strict=True):
            total.add_(value, alpha=share)
        return total.round().to(rows.dtype)
    for value, share in zip(rows, shares.tolist(), strict=True):
        total.add_((value - first).to(torch.float64), alpha=share)
    return first + total.round().to(rows.dtype)


def _integer_mean_on_device(rows: Tensor, wide: Tensor, shares: Tensor) -> Tensor:
    """Return :func:`integer_mean` without a look at the numbers, for which the device would have to be waited for."""
    columns = shares.view(-1, *[1] * (rows.dim() - 1))  # (clients, 1, ...)
    mean = (columns * wide).sum(0).round().to(rows.dtype)
    if rows.dtype == torch.bool:
        return mean
    exact = rows[0] + (columns * (rows - rows[0]).to(torch.float64)).sum(0).round().to(rows.dtype)
    return torch.where((wide.abs() > EXACT_IN_FLOAT64).any(), exact, mean)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return complex128 for a complex dtype, else float64."""
    return torch.complex128 if dtype.is_complex else torch.float64


def difference(values: Tensor, reference: Tensor) -> Tensor:
    """Return x - r, with 0 where both are the same infinity.

    Args:
        values: x.
        reference: r, of the same shape or one that is broadcast to it.
    """
    apart = values - reference
    if torch.isfinite(apart).all():
        return apart
    return torch.where(values == reference, torch.zeros_like(apart), apart)


def squared_distance(value: Tensor, reference: Tensor) -> float:
    """Return ||x - r||^2, squared in the dtype of the tensors and added up in float64."""
    squares = squared_norm(value - reference)
    return squares if math.isfinite(squares) else squared_norm(difference(value, reference))


def squared_norm(value: Tensor) -> float:
    """Return ||x||^2, squared in the dtype of the tensor and added up in float64; of complex numbers, sum |x|^2."""
    parts = torch.view_as_real(value) if value.is_complex() else value
    return float((parts * parts).sum(dtype=torch.float64))


def as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float64 tensor in another dtype; for integer dtypes it is rounded.

    Args:
        value: The tensor.
        dtype: The dtype of the layer's tensor.
    """
    return value.to(dtype) if dtype.is_floating_point or dtype.is_complex else value.round().to(dtype)


def distance(layer: Layer, values: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return ||x_i - u|| of a layer, over its trainable parameters.

    Args:
        layer: The layer.
        values: x_i, a client's tensors by name.
        reference: u, those that it began with.
    """
    squares = (
        squared_distance(values[spec.name].to(wide), reference[spec.name].to(wide))
        for spec in layer.tensors
        if spec.trainable
        for wide in [wide_dtype(spec.dtype)]
    )
    return math.sqrt(math.fsum(squares))
