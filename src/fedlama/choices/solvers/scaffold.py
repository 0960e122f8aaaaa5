"""SCAFFOLD: SGD whose gradients are corrected for how a client's data differ from everybody's.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Algorithm 1. With c_i
a client's control variate, which it keeps for the whole run, and c the server's, a step is

    x <- x - rate * (g - c_i + c)

and after the round c_i+ is set, c_i+ - c_i goes up, and c <- c + (m / N) mean(c_i+ - c_i) with m of N clients. This is
the source's option II: c_i - c + (u - x_i) / (K rate) is the mean of the gradients g of the round's K steps, which is
what is computed here. It is the same number, and it also holds where a layer is synchronised only every few rounds, or
the rate changes within the round.

The model and c go down, and the model and c_i+ - c_i go up: twice FedAvg's bytes. Deviations: the clients' mean is that
of `weighting` (the source's is equal), and the server optimizer takes the place of the source's server rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState, StateScope
from fedlama.choices.solvers.exchanged import Exchanged, server_value_of
from fedlama.choices.solvers.options import SolverOptions, with_decay
from fedlama.choices.solvers.per_client import along_clients
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse

CONTROL = "control"
"""The kind of the control variate, which is exchanged: up its change, down the server's."""


@register("solver")
@dataclass(frozen=True)
class Scaffold(SolverOptions):
    """SGD with control variates.

    Args:
        learning_rate: The rate, 0 or more.
        weight_decay: Added to the gradient as ``weight_decay * parameter``; 0 or more.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        state_scope: How long a client keeps c_i; ``"client"`` as in the source, for the whole run.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> x = [torch.tensor([[1.0]])]  # one client
        >>> state = Scaffold(learning_rate=0.1).init([x[0][0]])
        >>> state = {kind: [buffer.unsqueeze(0) for buffer in buffers] for kind, buffers in state.items()}
        >>> state |= {"control": [torch.zeros(1, 1)], "server control": [torch.tensor([0.5])]}
        >>> Scaffold(learning_rate=0.1).step(x, [torch.tensor([[2.0]])], state, 0.1, [True], [])
        >>> x  # 1 - 0.1 * (2 - 0 + 0.5)
        [tensor([[0.7500]])]
    """

    name: ClassVar[str] = "scaffold"
    always_stacked: ClassVar[bool] = True
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    decay_normalisation: bool = True
    state_scope: StateScope = "client"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "weight_decay")
        refuse(problems + one_of(self, "state_scope", ("client", "cohort")))

    @property
    def exchanges(self) -> tuple[Exchanged, ...]:
        """The control variate, to which the clients' mean change is added."""
        return (Exchanged(CONTROL, "sum"),)

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return zeros: c_i, the sum of the round's gradients, and its number of steps, of shape ()."""
        return {
            "variate": [torch.zeros_like(parameter) for parameter in parameters],
            "total": [torch.zeros_like(parameter) for parameter in parameters],
            "steps": [torch.zeros((), dtype=torch.int64, device=parameter.device) for parameter in parameters],
        }

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
        gradients = with_decay(parameters, gradients, decayed, self.weight_decay)
        torch._foreach_add_(optimizer_state["total"], gradients)
        torch._foreach_add_(optimizer_state["steps"], 1)
        corrected = torch._foreach_sub(gradients, optimizer_state["variate"])
        # The server's value has one client's shape; broadcasting serves stacked clients.
        torch._foreach_add_(corrected, optimizer_state[server_value_of(CONTROL)])
        torch._foreach_add_(list(parameters), corrected, alpha=-rate)

    def end_round(
        self, parameters: Sequence[Tensor], optimizer_state: OptimizerState, reference: Sequence[Tensor]
    ) -> None:
        """Set the client's control variate to the mean gradient of the round, and its change for the upload."""
        kinds = (optimizer_state[kind] for kind in ("variate", "total", "steps", CONTROL))
        for control, total, steps, change in zip(*kinds, strict=True):
            mean = total / along_clients(steps, total)
            change.copy_(mean - control)
            control.copy_(mean)
            total.zero_()
            steps.zero_()
