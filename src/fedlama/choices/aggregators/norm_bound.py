"""A bound on the norm of each client's update of a layer, measured against the cohort's median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined, weighted
from fedlama.core.layers import Layer
from fedlama.core.registry import register
from fedlama.core.validation import at_least, one_of, refuse


@register("aggregator")
@dataclass(frozen=True)
class NormBound(Aggregator):
    """Updates far longer than the cohort's median are cut to the bound, or left out.

    Source: Sun, Kairouz, Suresh and McMahan, "Can You Really Backdoor Federated Learning?" (arXiv 1911.07963), who
    clip whole updates to a fixed norm. Here every layer has a bound of its own, `factor` times the median norm of the
    updates at hand, since layers differ in size and, with intervals of their own, in how long they have drifted.
    The norm covers all tensors of the layer that hold real numbers, normalisation statistics included.

    Args:
        factor: How many times the median norm an update may have, 1 or more.
        excess: ``"clip"`` shortens a longer update to the bound, ``"refuse"`` leaves it out and re-scales the weights.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "norm-bound"
    factor: float = 2.0
    excess: Literal["clip", "refuse"] = "clip"

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "factor") + one_of(self, "excess", ("clip", "refuse")))

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Bound and average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        real = [spec.name for spec in layer.tensors if spec.dtype.is_floating_point]
        updates = {name: received[name].double() - reference[name].double() for name in real}
        first = next(iter(received.values()))
        shares = torch.tensor(weights, dtype=torch.float64, device=first.device)
        squares = [update.reshape(len(shares), -1).square().sum(1) for update in updates.values()]
        norms = torch.stack(squares).sum(0).sqrt() if squares else torch.zeros_like(shares)
        bound = self.factor * norms.median()
        within = norms <= bound
        if self.excess == "refuse":
            kept = torch.where(within, shares, 0.0)
            outside = tuple(torch.nonzero(~within).flatten().tolist())
            combined = weighted(layer, received, kept / kept.sum())
            return Combined(combined.values, combined.discrepancy, outside)
        scale = torch.where(within, 1.0, bound / norms.clamp(min=torch.finfo(torch.float64).tiny))
        bounded = dict(received)
        for name, update in updates.items():
            cut = reference[name].double() + update * scale.view(-1, *[1] * (update.dim() - 1))
            bounded[name] = torch.where(
                within.view(-1, *[1] * (update.dim() - 1)), received[name], cut.to(received[name].dtype)
            )
        return weighted(layer, bounded, shares)
