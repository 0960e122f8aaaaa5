"""Where a run left the finite numbers: the one place that looks for the client and the layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedlama.choices.codecs import Codec, codec_of
from fedlama.core.layers import Layer, Layers
from fedlama.errors import DivergenceError


def loss_divergence(
    layers: Layers, round_index: int, client: int, values: Mapping[str, Tensor], loss: float
) -> DivergenceError:
    """Return the error of a client whose loss is not finite; it names the first layer that is not finite either.

    Args:
        layers: The labelling.
        round_index: The round, from 0.
        client: The client's number.
        values: The client's local model.
        loss: Its loss.
    """
    for layer in layers:
        if name := not_finite(layer, values):
            return DivergenceError(round_index, client, layer.name, f"{name} is not finite")
    return DivergenceError(round_index, client, layers[-1].name, f"the loss is {loss}")


def average_divergence(
    layer: Layer, round_index: int, models: Iterable[tuple[int, Mapping[str, Tensor]]], codec: Codec
) -> DivergenceError:
    """Return the error of a layer whose average or discrepancy is not finite.

    It names the first client whose values of the layer are not finite, or whose finite values the codec turns into
    infinity. Where neither is the case, squares overflow, and it names the client with the largest value.

    Args:
        layer: The layer.
        round_index: The round, from 0.
        models: Clients' numbers with their values of the layer, in the cohort's order.
        codec: The codec of uploads.
    """
    largest = {}
    for client, values in models:
        if name := not_finite(layer, values):
            return DivergenceError(round_index, client, layer.name, f"{name} is not finite")
        for spec in layer.tensors:
            arrived = codec_of(spec, codec).transmit(values[spec.name].unsqueeze(0))
            if torch.isinf(arrived).any() or not (getattr(codec, "leaves_out", False) or torch.isfinite(arrived).all()):
                largest_value = float(values[spec.name].abs().max())
                return DivergenceError(
                    round_index,
                    client,
                    layer.name,
                    f"the codec {codec.name!r} cannot hold {spec.name}, whose largest magnitude is {largest_value:.4g}",
                    "use the codec 'float32', or scale the model's inputs so that its weights stay smaller",
                )
        largest[client] = max(float(values[spec.name].abs().max()) for spec in layer.tensors if spec.size)
    client = max(largest, key=lambda client: largest[client])
    detail = f"its largest value is {largest[client]:.1e} and the discrepancy overflows"
    return DivergenceError(round_index, client, layer.name, detail)


def not_finite(layer: Layer, values: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor of a layer that holds NaN or infinity; None when all numbers are finite."""
    return next((spec.name for spec in layer.tensors if not torch.isfinite(values[spec.name]).all()), None)
