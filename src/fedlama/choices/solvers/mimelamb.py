"""Mime-LAMB: Fed-LAMB whose second moment is that of full gradients at the global model.

Karimi, Li P. and Li X., UAI 2023 (arXiv 2110.00532), the variant after Karimireddy et al.'s MimeLite. Before its local
steps, every client computes the mean gradient G_i of all its data at the global model and sends it with its model; the
server sets v <- beta2 v + (1 - beta2) (mean of G_i)^2 and vhat <- max(vhat, v), element by element. The local steps are
those of :mod:`~fedlama.choices.solvers.fedlamb`, without a v of the client's own.

As many bytes as Fed-LAMB, and one more pass over the data in each round. The pass goes over the batches of a client's
first epoch in training mode, weighted by their samples; running statistics are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState
from fedlama.choices.solvers.exchanged import Exchanged, server_value_of
from fedlama.choices.solvers.fedlamb import SECOND, FedLAMB
from fedlama.core.registry import register


@dataclass(frozen=True)
class GradientMoment(Exchanged):
    """Second moments of what the clients upload: gradients go up, and the largest moment so far goes down.

    Attributes:
        beta2: Decay of the moment.
    """

    beta2: float = 0.999

    def reduced(self, previous: Tensor, average: Tensor, share: float, state: dict[str, Tensor]) -> Tensor:
        """Return the server's new value; see :meth:`fedlama.choices.solvers.exchanged.Exchanged.reduced`.

        >>> state = {}
        >>> GradientMoment("second", beta2=0.75).reduced(torch.tensor([0.5]), torch.tensor([2.0]), 1.0, state), state
        (tensor([1.]), {'moment': tensor([1.])})
        """
        moment = state.setdefault("moment", torch.zeros_like(previous))
        moment.mul_(self.beta2).addcmul_(average, average, value=1.0 - self.beta2)
        return torch.maximum(previous, moment)


@register("solver")
@dataclass(frozen=True)
class MimeLAMB(FedLAMB):
    """Fed-LAMB with the second moment of full gradients.

    The settings are those of :class:`~fedlama.choices.solvers.fedlamb.FedLAMB`; `interval` and `first_round` keep their
    defaults, because the server has a moment of every round, and a client none of its own.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> MimeLAMB(learning_rate=0.03).gradient_pass
        'second'
    """

    name: ClassVar[str] = "mime-lamb"
    gradient_pass: ClassVar[str] = SECOND

    def _misfits(self) -> list[str]:
        problems = super()._misfits()
        if self.interval != 1 or self.first_round != "global":
            problems.append(
                "MimeLAMB: interval and first_round are of Fed-LAMB's own second moment, which this solver does not "
                "have; leave them out"
            )
        if (self.decay_in, self.start, self.scale) != ("direction", 0.0, "direction"):
            problems.append(
                "MimeLAMB: decay_in, start and scale are of the program of Fed-LAMB's authors, which does not have "
                "this solver; leave them out"
            )
        return problems

    @property
    def exchanges(self) -> tuple[Exchanged, ...]:
        """Full gradients up, the largest second moment down."""
        return (GradientMoment(SECOND, "maximum", beta2=self.beta2),)

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step, in place; see :meth:`fedlama.choices.solvers.base.LocalSolver.step`."""
        if not parameters:
            return
        means = optimizer_state["mean"]
        torch._foreach_mul_(means, self.beta1)
        torch._foreach_add_(means, list(gradients), alpha=1.0 - self.beta1)
        directions = self._directions(parameters, means, optimizer_state[server_value_of(SECOND)], decayed)
        self._move(parameters, directions, means, rate)
