"""The mean of every element over the clients that sent it, for codecs that leave numbers out.

Chen et al., FLAYER, IJCAI 2025 (arXiv 2412.07062), equation 10: sum_i p_i x_i / sum_i p_i over the clients that sent
the element. An element that no client sent keeps its global value. Without a codec that leaves numbers out it is the
weighted mean.

Deviation: the authors' program sends zeros for what is left out, so it takes a weight that is 0 for one that was not
sent, and keeps the old value where the mean is 0; ``zeros = "left-out"`` does the same to kernels of convolutions and
to one-dimensional tensors, as the program does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined
from fedlama.core.averaging import average_rows, difference, wide_dtype
from fedlama.core.layers import Layer
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse


@register("aggregator")
@dataclass(frozen=True)
class ElementMean(Aggregator):
    """Average every element over the clients that sent it.

    Args:
        zeros: Whether a number that is 0 counts as ``"sent"``, or as ``"left-out"`` as in the authors' program.

    Raises:
        ConfigError: The value is unknown.

    Example:
        >>> from fedlama.core.layers import TensorSpec
        >>> layer = Layer("w", (TensorSpec("w", (4,), torch.float32, trainable=True),), adaptive=True)
        >>> nan = float("nan")
        >>> received = {"w": torch.tensor([[1.0, nan, 3.0, nan], [2.0, 4.0, nan, nan]])}  # two clients
        >>> ElementMean().combine(layer, received, [0.25, 0.75], {"w": torch.full((4,), 9.0)}).values
        {'w': tensor([1.7500, 4.0000, 3.0000, 9.0000])}
    """

    name: ClassVar[str] = "element-mean"
    zeros: Literal["sent", "left-out"] = "sent"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "zeros", ("sent", "left-out")))

    @property
    def counts_elements(self) -> bool:
        """Whether numbers that were not sent arrive as NaN; they may."""
        return True

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`.

        The discrepancy of an element is the weighted mean of the squared distances of those that sent it.
        """
        device = next(iter(received.values())).device
        shares = torch.tensor(weights, dtype=torch.float64, device=device)
        whole = tuple(spec for spec in layer.tensors if not self._has_counts(received[spec.name], spec.trainable))
        values, discrepancy = average_rows(Layer(layer.name, whole, layer.adaptive), received, shares)
        for spec in (spec for spec in layer.tensors if spec not in whole):
            value = received[spec.name]
            rows = value.to(wide_dtype(value.dtype)).reshape(len(weights), -1)  # (clients, elements)
            sent = ~torch.isnan(rows)
            if self.zeros == "left-out" and _is_masked(value):
                sent &= rows != 0
            counts = shares.unsqueeze(1) * sent  # (clients, elements)
            total = counts.sum(0)
            known = torch.where(sent, rows, torch.zeros_like(rows))
            mean = (counts.to(rows.dtype) * known).sum(0) / total.clamp(min=torch.finfo(torch.float64).tiny)
            old = reference[spec.name].to(device, rows.dtype).reshape(-1)
            missing = total == 0 if self.zeros == "sent" else (total == 0) | (_is_masked(value) & (mean == 0))
            mean = torch.where(missing, old, mean)
            values[spec.name] = mean.view(value.shape[1:]).to(value.dtype)
            squares = difference(torch.where(sent, rows, mean), mean).abs().square()
            discrepancy += float((counts * squares / total.clamp(min=torch.finfo(torch.float64).tiny)).sum())
        return Combined({spec.name: values[spec.name] for spec in layer.tensors}, discrepancy)

    def _has_counts(self, value: Tensor, trainable: bool) -> bool:
        """Return whether some client did not send some element of a tensor, (clients, ...)."""
        if not trainable or not (value.is_floating_point() or value.is_complex()):
            return False
        return bool(torch.isnan(value).any()) or (self.zeros == "left-out" and _is_masked(value))


def _is_masked(value: Tensor) -> bool:
    """Return whether a tensor, (clients, ...), is one of those that the authors' program masks."""
    return value.dim() - 1 not in (0, 2)
