"""A client that trains with the user's own function: any PyTorch model, any optimiser, any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Codec, Float32
from fedlama.core.layers import Layers, by_tensor
from fedlama.engines.api import Values
from fedlama.flower.client.trainer import Assignment

Train = Callable[[nn.Module, Assignment], float]
"""Trains a model in place for ``work.steps`` local steps on the data of ``work.client``; returns the mean loss."""


class FunctionLocal:
    """A client behind a training function; see :class:`fedlama.flower.client.trainer.Local`.

    Args:
        model: The model; its weights are overwritten.
        train: Trains it. Layers named in ``work.frozen`` are put back afterwards.
        samples: Number of training samples n_i.
        layers: The labelling; by default every parameter tensor is a layer. It must be the server's.
        codec: How uploads are compressed. It must be the server's.
    """

    def __init__(
        self, model: nn.Module, train: Train, samples: int, layers: Layers | None = None, codec: Codec | None = None
    ) -> None:
        self._model, self._train, self._samples = model, train, samples
        self._layers = by_tensor(model) if layers is None else layers
        self._codec: Codec = codec or Float32()

    @property
    def layers(self) -> Layers:
        """The labelling of the model."""
        return self._layers

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""
        return self._codec

    @property
    def uses_reference(self) -> bool:
        """The function has the model and nothing else."""
        return False

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""
        return self._samples

    def begin(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Start from the full model; what never travels begins as the model was built."""
        return {**self._values(), **values}, {}

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, work: Assignment
    ) -> tuple[Values, Values, float]:
        """Call the function on a model that holds the values."""
        self._model.load_state_dict(values, strict=False)
        self._model.train()
        loss = float(self._train(self._model, work))
        names = {spec.name for layer in self._layers if layer.name in work.frozen for spec in layer.tensors}
        return (
            {name: values[name] if name in names else value for name, value in self._values().items()},
            optimizer_state,
            loss,
        )

    def _values(self) -> Values:
        with torch.no_grad():
            return {name: value.detach().clone() for name, value in self._model.state_dict().items()}
