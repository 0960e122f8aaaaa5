"""FedDyn's server: Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, Algorithm 1.

The clients' part is :class:`~fedlama.choices.solvers.feddyn.FedDyn`. It costs no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fedlama.choices.server_optimizers.base import ServerOptimizer, ServerOptimizerState
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, refuse


@register("server_optimizer")
@dataclass(frozen=True)
class ServerFedDyn(ServerOptimizer):
    """h <- h - alpha s (average - previous); u <- average - h / alpha, with s the share of all clients that answered.

    Args:
        alpha: The strength of the regulariser, more than 0; that of the solver.
        share: s where no run sets it; a run sets it in each round.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> state = {}
        >>> ServerFedDyn(alpha=0.5).with_share(0.5).apply(torch.tensor([1.0]), torch.tensor([3.0]), state)
        tensor([4.])
        >>> state  # -0.5 * 0.5 * (3 - 1)
        {'dynamic': tensor([-0.5000])}
    """

    name: ClassVar[str] = "feddyn"
    alpha: float = 0.1
    share: float = 1.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "alpha") + ([] if self.share == 1.0 else between(self, 0, 1, "share"))
        if not problems and self.alpha == 0:
            problems.append("ServerFedDyn: alpha is 0, expected more than 0; use server_optimizer 'replace' without it")
        refuse(problems)

    def with_share(self, share: float) -> Self:
        """Return the optimizer of a round in which this share of all clients answered."""
        return replace(self, share=share)

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value; see :meth:`fedlama.choices.server_optimizers.base.ServerOptimizer.apply`."""
        dynamic = optimizer_state.setdefault("dynamic", torch.zeros_like(previous))
        dynamic.sub_(average - previous, alpha=self.alpha * self.share)
        return average - dynamic / self.alpha
