"""The operations of a chain on stacked clients, each with its own backward pass, and where gradients go.

Activations have one of two forms: flat, (clients, batch, features), or images, (batch, clients x channels, height,
width). In the second form one grouped convolution, with a group per client, serves all clients.

An operation keeps what its backward pass needs between the two calls. It writes the gradients of its parameters
straight into a :class:`GradientTarget`, so that plain SGD stores no gradient at all.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fedlama.engines.api import Values
from fedlama.engines.trainers.dropout import ClientMasks

_aten = torch.ops.aten
Pair = list[int]


class GradientTarget:
    """Takes the gradients of one step: each is added to a target, which is scaled before.

    With the velocity as target, momentum as scale and factor 1 this is a momentum update. With the parameter as target,
    scale 1 and factor -eta it is a step of plain SGD. In both cases no gradient is stored.

    Args:
        targets: What gradients are added to, (clients, ...), by the parameter's name; parameters that are not in it are
            not trained.
        scales: By name, what the target is multiplied by before; 0 overwrites it.
        factor: What gradients are multiplied by.
    """

    def __init__(self, targets: Values, scales: dict[str, float], factor: float) -> None:
        self._targets, self._scales, self.factor = targets, scales, factor

    def wants(self, name: str | None) -> bool:
        """Return whether a parameter is trained."""
        return name in self._targets

    def add(self, name: str, gradient: Tensor) -> None:
        """Add a gradient, (clients, ...)."""
        target, scale = self._targets[name], self._scales[name]
        if scale == 0.0:
            torch.mul(gradient.view_as(target), self.factor, out=target)
            return
        if scale != 1.0:
            target.mul_(scale)
        target.add_(gradient.view_as(target), alpha=self.factor)

    def add_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Add the gradient ``left @ right`` of one matrix per client, without storing it.

        Args:
            name: The parameter.
            left: (clients, outputs, batch).
            right: (clients, batch, inputs).
        """
        self._targets[name].baddbmm_(left, right, beta=self._scales[name], alpha=self.factor)


class ChainOperation(Protocol):
    """One link of a chain.

    Attributes:
        parameters: Names of its parameters.
        draws: Whether it draws random numbers.
        data_dims: Dimensions of the data, (clients, batch, ...), if it is the first operation; None if any will do.
    """

    parameters: tuple[str, ...]
    draws: bool
    data_dims: int | None

    def bind(self, values: Values) -> None:
        """Use these stacked tensors, (clients, ...), from now on."""

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Compute the output."""

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """Add the gradients of the parameters to the target, and return the input's gradient.

        Args:
            gradient: The output's gradient; it may be overwritten.
            target: Where the parameters' gradients go.
            wanted: Whether the input's gradient is needed; if not, any tensor may be returned.
        """


class _WithoutParameters:
    """What operations without parameters have in common."""

    parameters: tuple[str, ...] = ()
    draws = False
    data_dims: int | None = None

    def bind(self, values: Values) -> None:
        """Nothing to bind."""


class StackedDense:
    """x W' + b for every client, as batched matrix products.

    Args:
        weight: Name of W, (clients, outputs, inputs).
        bias: Name of b, (clients, outputs), or None.
        classes_first: Whether the output is (clients, outputs, batch). The last layer's is, because a softmax over ten
            neighbouring numbers takes eight times as long as one over ten rows.
    """

    draws = False
    data_dims: int | None = 3

    def __init__(self, weight: str, bias: str | None, classes_first: bool) -> None:
        self.parameters: tuple[str, ...] = (weight,) if bias is None else (weight, bias)
        self._weight_name, self._bias_name, self._classes_first = weight, bias, classes_first

    def bind(self, values: Values) -> None:
        """Use these stacked tensors from now on."""
        self._weight = values[self._weight_name]  # (clients, outputs, inputs)
        self._bias: Tensor | None = None
        if self._bias_name is not None:  # (clients, outputs, 1) or (clients, 1, outputs)
            self._bias = values[self._bias_name].unsqueeze(2 if self._classes_first else 1)

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Map (clients, batch, inputs) to (clients, batch, outputs), or (clients, outputs, batch)."""
        self._x = x
        left, right = (self._weight, x.mT) if self._classes_first else (x, self._weight.mT)
        return torch.bmm(left, right) if self._bias is None else torch.baddbmm(self._bias, left, right)

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """See :class:`ChainOperation`."""
        # by_output (clients, outputs, batch), by_sample (clients, batch, outputs)
        by_output, by_sample = (gradient, gradient.mT) if self._classes_first else (gradient.mT, gradient)
        # The input's gradient comes first, since the target may be the weight itself.
        below = torch.bmm(by_sample, self._weight) if wanted else gradient  # (clients, batch, inputs)
        if target.wants(self._weight_name):
            target.add_product(self._weight_name, by_output, self._x)
        if self._bias_name is not None and target.wants(self._bias_name):
            target.add(self._bias_name, gradient.sum(2 if self._classes_first else 1))
        return below


class StackedConvolution:
    """A convolution for every client, as one grouped convolution of images.

    Args:
        weight: Name of the kernels, (clients, outputs, inputs, height, width).
        bias: Name of the bias, (clients, outputs), or None.
        stride: Vertical and horizontal.
        padding: Zeros on each side.
        dilation: Spacing of the kernel's points.
        groups: Groups of one client's convolution.
    """

    draws = False
    data_dims: int | None = None

    def __init__(self, weight: str, bias: str | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> None:
        self.parameters: tuple[str, ...] = (weight,) if bias is None else (weight, bias)
        self._weight_name, self._bias_name, self._groups = weight, bias, groups
        self._settings = (stride, padding, dilation, False, [0, 0])  # not transposed, no output padding

    def bind(self, values: Values) -> None:
        """Use these stacked tensors from now on."""
        clients, _, inputs = values[self._weight_name].shape[:3]
        self._weight = values[self._weight_name].flatten(0, 1)  # (clients x outputs, inputs, height, width)
        self._bias = None if self._bias_name is None else values[self._bias_name].flatten()
        self._all_groups = self._groups * clients
        # Measured on a CPU: channels-last is faster for one client and for one input channel per group (depthwise
        # kernels), and several times slower for other groups, above all backward.
        channels_last = self._all_groups == 1 or inputs == 1
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Map images to images."""
        self._x = x.contiguous(memory_format=self._format)
        output: Tensor = _aten.convolution(self._x, self._weight, self._bias, *self._settings, self._all_groups)
        return output  # (batch, clients x outputs, height, width)

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """See :class:`ChainOperation`."""
        mask = [wanted, target.wants(self._weight_name), target.wants(self._bias_name)]
        bias_sizes = None if self._bias is None else [len(self._bias)]
        gradient = gradient.contiguous(memory_format=self._format)
        below, weight, bias = _aten.convolution_backward(
            gradient, self._x, self._weight, bias_sizes, *self._settings, self._all_groups, mask
        )
        if mask[1]:
            target.add(self._weight_name, weight)
        if mask[2] and self._bias_name is not None:
            target.add(self._bias_name, bias)
        return below if wanted else gradient


class StackedMaxPool(_WithoutParameters):
    """The largest value of each window.

    Args:
        size: Of the window.
        stride: Vertical and horizontal.
        padding: Margin on each side.
    """

    def __init__(self, size: Pair, stride: Pair, padding: Pair) -> None:
        self._settings = (size, stride, padding, [1, 1], False)  # no dilation, no partial windows

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Map images to smaller images."""
        # Channels-last is vectorised over channels; over rows of a few pixels it would take twenty times as long.
        self._x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor
        output, self._indices = _aten.max_pool2d_with_indices(self._x, *self._settings)
        return output  # (batch, clients x channels, height, width)

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """Pass each gradient to where the largest value was."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        below: Tensor = _aten.max_pool2d_with_indices_backward(gradient, self._x, *self._settings, self._indices)
        return below


class StackImages(_WithoutParameters):
    """The entry of a chain that begins with images: brings the clients beside the channels."""

    data_dims: int | None = 5

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Map (clients, batch, channels, height, width) to (batch, clients x channels, height, width)."""
        return x.transpose(0, 1).flatten(1, 2)

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """The gradient of the data is never needed."""
        return gradient


class StackedFlatten(_WithoutParameters):
    """From data or images to flat activations.

    Args:
        images: Whether the input has the form of images.
    """

    def __init__(self, images: bool) -> None:
        self._images = images
        self._clients = 1

    def bind(self, values: Values) -> None:
        """Remember the number of clients."""
        self._clients = len(next(iter(values.values())))

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Return (clients, batch, features)."""
        self._shape = x.shape
        if not self._images:
            return x.flatten(2)
        return x.reshape(len(x), self._clients, -1).transpose(0, 1)

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """Give the gradient the input's shape."""
        if not (self._images and wanted):
            return gradient
        return gradient.transpose(0, 1).reshape(self._shape)


class StackedRelu(_WithoutParameters):
    """max(x, 0), in place."""

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Replace negative numbers by 0."""
        self._y = x.relu_()
        return self._y

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """Pass the gradient where the output is positive."""
        below: Tensor = _aten.threshold_backward(gradient, self._y, 0)
        return below


class StackedDropout(_WithoutParameters):
    """Every client's own random mask.

    Args:
        rate: The fraction that is dropped.
        images: Whether activations have the form of images.
    """

    draws = True

    def __init__(self, rate: float, images: bool) -> None:
        self._rate, self._images = rate, images
        self._clients = 1

    def bind(self, values: Values) -> None:
        """Remember the number of clients."""
        self._clients = len(next(iter(values.values())))

    def forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        """Draw and apply the masks."""
        if not self._images:
            self._mask = torch.stack(masks.draw(x.shape[1:], self._rate))  # (clients, batch, features)
        else:
            batch, channels, *size = x.shape
            drawn = masks.draw((batch, channels // self._clients, *size), self._rate)
            self._mask = torch.stack(drawn, dim=1).flatten(1, 2)  # (batch, clients x channels, height, width)
        return x * self._mask

    def backward(self, gradient: Tensor, target: GradientTarget, wanted: bool) -> Tensor:
        """Apply the same masks."""
        return gradient * self._mask
