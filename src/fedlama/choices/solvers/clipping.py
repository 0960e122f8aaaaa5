"""Gradient clipping: every client's gradient is limited by itself, before the solver sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedlama.choices.solvers.per_client import along_clients, client_norms
from fedlama.core.validation import at_least, normalise_numbers, refuse

_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_ adds it


@dataclass(frozen=True)
class Clipping:
    """Limits of a gradient; by default none. With both, values are clipped first, so the norm's limit holds at the end.

    Args:
        norm: The largest Euclidean norm of a client's whole gradient, over all parameters that are trained, as
            :func:`torch.nn.utils.clip_grad_norm_` limits it; None for no limit.
        value: The largest magnitude of a single number, as :func:`torch.nn.utils.clip_grad_value_` limits it; None for
            no limit.

    Raises:
        ConfigError: A limit is not a positive number.

    Example:
        >>> import torch
        >>> two_clients = [torch.tensor([[3.0, 4.0], [0.3, 0.4]])]
        >>> Clipping(norm=1.0).clipped(two_clients)  # the second client's gradient is within the limit
        [tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])]
    """

    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        normalise_numbers(self)
        given = [field for field in ("norm", "value") if getattr(self, field) is not None]
        problems = at_least(self, 0, *given)
        problems += [
            f"Clipping: {field} is 0, expected more than 0; leave it out for no limit"
            for field in given
            if getattr(self, field) == 0
        ]
        refuse(problems)

    def clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return clipped gradients; those given are not changed.

        Args:
            gradients: Of all parameters that are trained, each (clients, ...).
        """
        clipped = list(gradients)
        if self.value is not None and clipped:
            clipped = [gradient.clamp(-self.value, self.value) for gradient in clipped]
        if self.norm is not None and clipped:
            factors = (self.norm / (client_norms(clipped) + _EPSILON)).clamp(max=1.0)  # (clients,)
            clipped = [gradient * along_clients(factors, gradient) for gradient in clipped]
        return clipped
