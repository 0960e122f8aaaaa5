"""Dense layers of many clients as batched matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlama.engines.api import Values
from fedlama.engines.trainers.chain.base import Draws, Sink


class Dense:
    """x W' + b for every client.

    Args:
        weight: Name of W, (clients, outputs, inputs).
        bias: Name of b, or None.
        classes_first: Whether the output is (clients, outputs, batch). The last layer's is, because a softmax over ten
            neighbouring numbers is eight times slower than over ten rows.
    """

    def __init__(self, weight: str, bias: str | None, classes_first: bool) -> None:
        self.parameters = (weight,) if bias is None else (weight, bias)
        self.weight, self.bias, self._classes_first = weight, bias, classes_first

    def bind(self, values: Values) -> None:
        """Use these stacked tensors from now on."""
        self._w = values[self.weight]
        self._b = None if self.bias is None else values[self.bias].unsqueeze(2 if self._classes_first else 1)

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Map (clients, batch, inputs) to (clients, batch, outputs), or classes first."""
        self._x = x
        left, right = (self._w, x.mT) if self._classes_first else (x, self._w.mT)
        return torch.bmm(left, right) if self._b is None else torch.baddbmm(self._b, left, right)

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """See :class:`fedlama.engines.trainers.chain.base.Operation`."""
        columns, rows = (gradient, gradient.mT) if self._classes_first else (gradient.mT, gradient)
        # The input's gradient first: the sink may change the weight itself.
        below = torch.bmm(rows, self._w) if wanted else gradient
        if sink.wants(self.weight):
            sink.add_product(self.weight, columns, self._x)
        if self.bias is not None and sink.wants(self.bias):
            sink.add(self.bias, gradient.sum(2 if self._classes_first else 1))
        return below
