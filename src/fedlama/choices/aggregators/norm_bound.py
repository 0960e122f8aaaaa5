"""A bound on the norm of each client's update of a layer, measured against the cohort's median."""

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
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse


@register("aggregator")
@dataclass(frozen=True)
class NormBound(Aggregator):
    """Updates much longer than the cohort's median are shortened to the bound, or left out.

    Source: Sun, Kairouz, Suresh and McMahan, "Can You Really Backdoor Federated Learning?" (arXiv 1911.07963), who
    clip whole updates to a fixed norm. Deviation: every layer has a bound of its own, `factor` times the median norm of
    its updates, since layers differ in size and, with different intervals, in how long they have drifted. The norm
    covers all floating-point tensors of the layer, normalisation statistics included.

    Args:
        factor: The bound as a multiple of the median norm, 1 or more.
        excess: ``"clip"`` shortens a longer update to the bound, ``"refuse"`` leaves it out and re-scales the weights.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> from fedlama.core.layers import TensorSpec
        >>> layer = Layer("w", (TensorSpec("w", (1,), torch.float32, trainable=True),), adaptive=True)
        >>> received = {"w": torch.tensor([[1.0], [1.0], [900.0]])}  # three clients
        >>> found = NormBound(2.0, excess="refuse").combine(layer, received, [1 / 3] * 3, {"w": torch.tensor([0.0])})
        >>> found.values, found.refused
        ({'w': tensor([1.])}, (2,))
    """

    name: ClassVar[str] = "norm-bound"
    factor: float = 2.0
    excess: Literal["clip", "refuse"] = "clip"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 1, "factor") + one_of(self, "excess", ("clip", "refuse")))

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Bound and average; see :meth:`fedlama.choices.aggregators.base.Aggregator.combine`."""
        floating = [spec.name for spec in layer.tensors if spec.dtype.is_floating_point or spec.dtype.is_complex]
        updates = {
            name: difference(_wide(received[name]), _wide(reference[name])) for name in floating
        }  # (clients, ...)
        device = next(iter(received.values())).device
        shares = torch.tensor(weights, dtype=torch.float64, device=device)
        squares = [update.reshape(len(shares), -1).abs().square().sum(1) for update in updates.values()]
        norms = torch.stack(squares).sum(0).sqrt() if squares else torch.zeros_like(shares)  # (clients,)
        bound = self.factor * norms.median()
        within = norms <= bound
        if self.excess == "refuse":
            kept = torch.where(within, shares, 0.0)
            outside = tuple(torch.nonzero(~within).flatten().tolist())
            return Combined(*average_rows(layer, received, kept / kept.sum()), outside)
        scale = torch.where(within, 1.0, bound / norms.clamp(min=torch.finfo(torch.float64).tiny))
        bounded = dict(received)
        for name, update in updates.items():
            per_client = (-1, *[1] * (update.dim() - 1))  # one number per client, broadcast over its tensor
            shortened = _wide(reference[name]) + update * scale.view(per_client)
            # Updates within the bound keep their exact values, without the way through float64 and back.
            bounded[name] = torch.where(within.view(per_client), received[name], shortened.to(received[name].dtype))
        return Combined(*average_rows(layer, bounded, shares))


def _wide(value: Tensor) -> Tensor:
    """Return a tensor in float64, or complex128."""
    return value.to(wide_dtype(value.dtype))
