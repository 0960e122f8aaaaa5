"""The median of each coordinate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined, as_dtype
from fedlama.core.layers import Layer
from fedlama.core.registry import register


@register("aggregator")
@dataclass(frozen=True)
class Median(Aggregator):
    """Every coordinate becomes the median over the clients; with an even number, the mean of the middle two.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates" (ICML 2018), Algorithm 1. Clients count alike there and here, whatever their numbers of samples. The
    discrepancy of a coordinate is the median of its squared distances to that median.
    """

    name: ClassVar[str] = "median"

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Take the medians; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        values, discrepancy = {}, 0.0
        for spec in layer.tensors:
            rows = received[spec.name].double()
            middle = _median(rows)
            values[spec.name] = as_dtype(middle, spec.dtype)
            if spec.trainable:
                discrepancy += float(_median((rows - middle).square()).sum())
        return Combined(values, discrepancy)


def _median(rows: Tensor) -> Tensor:
    ordered, count = torch.sort(rows, dim=0).values, len(rows)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
