"""Convolutions and max pooling of many clients: one grouped convolution, a group per client."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlama.engines.api import Values
from fedlama.engines.trainers.chain.base import Draws, Sink

_aten = torch.ops.aten
Pair = list[int]


class Convolution:
    """A convolution per client.

    Args:
        weight: Name of the kernels, (clients, outputs, inputs, height, width).
        bias: Name of the bias, or None.
        stride: Steps.
        padding: Zeros on each side.
        dilation: Spacing of the kernel.
        groups: Groups of one client's convolution.
    """

    def __init__(self, weight: str, bias: str | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> None:
        self.parameters = (weight,) if bias is None else (weight, bias)
        self.weight, self.bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self._shape = (stride, padding, dilation, False, [0, 0])

    def bind(self, values: Values) -> None:
        """Use these stacked tensors from now on."""
        self._w = values[self.weight].flatten(0, 1)
        self._b = None if self.bias is None else values[self.bias].flatten()
        clients, _, inputs = values[self.weight].shape[:3]
        self._all_groups = self.groups * clients
        # Measured on a CPU: channels-last is faster for one client and for one input channel per group (depthwise
        # kernels), and several times slower for other groups, above all backward.
        self._format = torch.channels_last if self._all_groups == 1 or inputs == 1 else torch.contiguous_format

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Map images to images."""
        self._x = x = x.contiguous(memory_format=self._format)
        output: Tensor = _aten.convolution(x, self._w, self._b, *self._shape, self._all_groups)
        return output

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """See :class:`fedlama.engines.trainers.chain.base.Operation`."""
        mask = [wanted, sink.wants(self.weight), sink.wants(self.bias)]
        sizes = None if self._b is None else [len(self._b)]
        gradient = gradient.contiguous(memory_format=self._format)
        below, weight, bias = _aten.convolution_backward(
            gradient, self._x, self._w, sizes, *self._shape, self._all_groups, mask
        )
        if mask[1]:
            sink.add(self.weight, weight)
        if mask[2] and self.bias is not None:
            sink.add(self.bias, bias)
        return below if wanted else gradient


class MaxPool:
    """The largest value of each window.

    Args:
        size: Window.
        stride: Steps.
        padding: Margin.
    """

    parameters: tuple[str, ...] = ()

    def __init__(self, size: Pair, stride: Pair, padding: Pair) -> None:
        self.size, self.stride, self.padding = size, stride, padding
        self._shape = (size, stride, padding, [1, 1], False)

    def bind(self, values: Values) -> None:
        """There is nothing to bind."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Map images to smaller images."""
        # Channels-last is vectorised over channels; over rows of a few pixels it is twenty times slower.
        self._x = x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor
        output, self._where = _aten.max_pool2d_with_indices(x, *self._shape)
        return output

    def backward(self, gradient: Tensor, sink: Sink, wanted: bool) -> Tensor:
        """Send each gradient to where the largest value was."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        below: Tensor = _aten.max_pool2d_with_indices_backward(gradient, self._x, *self._shape, self._where)
        return below
