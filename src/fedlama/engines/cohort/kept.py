"""What a client keeps for the whole run, and what it loses with its cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedlama.choices.personal import OWN_SHARE, Personal
from fedlama.core.layers import Layers, layer_tensors, local_buffers
from fedlama.engines.api import EngineSetup, Values


def blended_names(layers: Layers) -> list[str]:
    """Return the names of the parameters of heads.

    Args:
        layers: The layers that are sent.
    """
    return [spec.name for layer in layers if layer.tag == "head" for spec in layer.tensors if spec.trainable]


def kept_values(setup: EngineSetup) -> Values:
    """Return the first values of what a client keeps for the whole run: of local layers, and of a personal model.

    Args:
        setup: The federation's fixed parts.
    """
    values = layer_tensors(setup.model, setup.local_layers)
    if setup.personal is not None:
        heads = set(blended_names(setup.layers))
        values |= {name: value for name, value in setup.model.named_parameters() if name in heads}
        values |= local_buffers(setup.model, setup.trained_layers)
        values[OWN_SHARE] = torch.full((), first_share(setup.personal), device=setup.device)
    return {name: value.detach().clone().to(setup.device) for name, value in values.items()}


def first_share(personal: Personal) -> float:
    """Return a client's a before it has been measured: a number that is set counts from the start."""
    return 0.0 if personal.own_share is None else personal.own_share


def dropped_buffers(setup: EngineSetup) -> Values:
    """Return the first values of buffers that never leave a client and that it loses with its cohort.

    Args:
        setup: The federation's fixed parts.
    """
    buffers = {} if setup.personal is not None else local_buffers(setup.model, setup.trained_layers)
    return {name: buffer.detach().clone().to(setup.device) for name, buffer in buffers.items()}


def without(values: Mapping[str, Tensor], names: Iterable[str]) -> Values:
    """Return tensors but for some of them."""
    left_out = set(names)
    return {name: value for name, value in values.items() if name not in left_out}
