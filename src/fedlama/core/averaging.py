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

The two agree to the rounding of the tensors' dtype, not to the last bit, which is why both exist. The stacked engine's
counterpart is :mod:`fedlama.engines.cohort.averaging`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedlama.core.layers import Layer


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
            discrepancy += sum(w * squared_norm(value - mean) for w, value in zip(weights, values, strict=True))
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
        rows = value.double().reshape(len(weights), -1)
        mean = weights @ rows
        means[spec.name] = as_dtype(mean.view(value.shape[1:]), value.dtype)
        if spec.trainable:
            discrepancy += float(weights @ (rows - mean).square().sum(1))
    return means, discrepancy


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i p_i x_i, added up in order; whole numbers are averaged in float64 and rounded.

    Args:
        values: One tensor per client, of one shape and dtype.
        weights: p_i, summing to 1.

    >>> weighted_mean([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], [0.25, 0.75])
    tensor([2.5000, 5.0000])
    """
    real = values[0].is_floating_point()
    total = torch.zeros_like(values[0], dtype=values[0].dtype if real else torch.float64)
    for value, weight in zip(values, weights, strict=True):
        total.add_(value if real else value.double(), alpha=weight)
    return total if real else total.round().to(values[0].dtype)


def squared_norm(value: Tensor) -> float:
    """Return ||x||^2, squared in the tensor's dtype and added up in float64."""
    return float((value * value).sum(dtype=torch.float64))


def as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float64 tensor in another dtype; for integer dtypes it is rounded.

    Args:
        value: The tensor.
        dtype: The dtype of the layer's tensor.
    """
    return value.to(dtype) if dtype.is_floating_point else value.round().to(dtype)
