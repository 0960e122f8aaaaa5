"""FedDyn's clients: SGD on an objective that changes from round to round, so that all agree where the sum is smallest.

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, Algorithm 1. With lambda_i what a client
keeps for the whole run, and u the global model that it received, a step is one of SGD on

    L_i(x) - <lambda_i, x> + alpha / 2 ||x - u||^2,

and after the round lambda_i <- lambda_i - alpha (x_i - u). The server's part is
:class:`~fedlama.choices.server_optimizers.feddyn.ServerFedDyn`, with the same alpha. Nothing else is sent, so it costs
no bytes. Deviation: the source minimises the objective; here a client takes the local steps of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState, StateScope
from fedlama.choices.solvers.options import SolverOptions, with_decay
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse


@register("solver")
@dataclass(frozen=True)
class FedDyn(SolverOptions):
    """SGD with FedDyn's dynamic regulariser.

    Args:
        learning_rate: The rate, 0 or more.
        alpha: The strength of the regulariser, more than 0; that of the server optimizer.
        weight_decay: Added to the gradient as ``weight_decay * parameter``; 0 or more.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        state_scope: How long a client keeps lambda_i; ``"client"`` as in the source, for the whole run.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> x, u = [torch.tensor([3.0])], [torch.tensor([1.0])]
        >>> solver = FedDyn(learning_rate=0.1, alpha=0.5)
        >>> state = solver.init(x)
        >>> solver.step(x, [torch.tensor([2.0])], state, 0.1, [True], u)
        >>> x  # 3 - 0.1 * (2 - 0 + 0.5 * (3 - 1))
        [tensor([2.7000])]
    """

    name: ClassVar[str] = "feddyn"
    learning_rate: float = 0.1
    alpha: float = 0.1
    weight_decay: float = 0.0
    decay_normalisation: bool = True
    state_scope: StateScope = "client"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "alpha", "weight_decay")
        if not problems and self.alpha == 0:
            problems.append("FedDyn: alpha is 0, expected more than 0; use solver 'sgd' for no regulariser")
        refuse(problems + one_of(self, "state_scope", ("client", "cohort")))

    @property
    def uses_reference(self) -> bool:
        """True: the regulariser counts from the global model."""
        return True

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return zeros: lambda_i."""
        return {"dynamic": [torch.zeros_like(parameter) for parameter in parameters]}

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
        decayed = [normal or self.decay_normalisation for normal in decayed]
        pulled = torch._foreach_add(
            with_decay(parameters, gradients, decayed, self.weight_decay), list(parameters), alpha=self.alpha
        )
        # The reference has one client's shape; broadcasting serves stacked parameters too.
        torch._foreach_add_(pulled, list(reference), alpha=-self.alpha)
        torch._foreach_sub_(pulled, optimizer_state["dynamic"])
        torch._foreach_add_(list(parameters), pulled, alpha=-rate)

    def end_round(
        self, parameters: Sequence[Tensor], optimizer_state: OptimizerState, reference: Sequence[Tensor]
    ) -> None:
        """Move lambda_i by what the client moved."""
        for dynamic, parameter, known in zip(optimizer_state["dynamic"], parameters, reference, strict=True):
            dynamic.sub_(self.alpha * (parameter - known))
