"""Operations without parameters: entry, flattening, ReLU and dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlama.engines.api import Values
from fedlama.engines.trainers.chain.base import Draws, Sink

_aten = torch.ops.aten


class _Stateless:
    parameters: tuple[str, ...] = ()

    def bind(self, values: Values) -> None:
        """There is nothing to bind."""


class EnterImages(_Stateless):
    """From batches (clients, batch, channels, height, width) to images."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Bring the clients beside the channels."""
        return x.transpose(0, 1).flatten(1, 2)

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Nobody asks for the gradient of the data."""
        return gradient


class Flatten(_Stateless):
    """From batches or images to flat activations.

    Args:
        images: Whether the input is in the form of images.
    """

    def __init__(self, images: bool) -> None:
        self._images = images
        self._clients = 1

    def bind(self, values: Values) -> None:
        """Remember the number of clients."""
        self._clients = len(next(iter(values.values())))

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Return (clients, batch, features)."""
        self._shape = x.shape
        if not self._images:
            return x.flatten(2)
        return x.reshape(len(x), self._clients, -1).transpose(0, 1)

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Give the gradient the input's form."""
        if not (self._images and wanted):
            return gradient
        return gradient.transpose(0, 1).reshape(self._shape)


class Relu(_Stateless):
    """max(x, 0), in place."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Cut at 0."""
        self._y = x.relu_()
        return self._y

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Pass the gradient where the output is positive."""
        below: Tensor = _aten.threshold_backward(gradient, self._y, 0)
        return below


class Dropout(_Stateless):
    """Every client's own random mask.

    Args:
        rate: Share that is set to 0.
        images: Whether activations are in the form of images.
    """

    def __init__(self, rate: float, images: bool) -> None:
        self.rate, self._images = rate, images
        self._clients = 1

    def bind(self, values: Values) -> None:
        """Remember the number of clients."""
        self._clients = len(next(iter(values.values())))

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Draw and apply the masks."""
        if not self._images:
            self._mask = torch.stack(draws.mask(x.shape[1:], self.rate))
        else:
            batch, channels, *size = x.shape
            own = draws.mask((batch, channels // self._clients, *size), self.rate)
            self._mask = torch.stack(own, dim=1).flatten(1, 2)
        return x * self._mask

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Apply the same masks."""
        return gradient * self._mask
