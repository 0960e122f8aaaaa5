"""Adam and AdamW on each client, as :mod:`torch.optim` has them.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1; Loshchilov and Hutter, "Decoupled
Weight Decay Regularization", ICLR 2019, Algorithm 2 (AdamW). As in PyTorch, epsilon is added after the bias correction,
and AdamW's decay is multiplied by the learning rate. AMSGrad is left out.

The number of steps that enters the bias corrections is a buffer: it counts from where the other buffers began, which
`state_scope` decides, and is one number for each client and parameter, since clients and layers may rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import STATE_SCOPES, OptimizerState, StateScope
from fedlama.choices.solvers.options import SolverOptions, with_decay
from fedlama.choices.solvers.per_client import along_clients
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, one_of, refuse


@register("solver")
@dataclass(frozen=True)
class Adam(SolverOptions):
    """Adam; weight decay is added to the gradient, as an L2 penalty is.

    Args:
        learning_rate: The rate, 0 or more.
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of their squares, in [0, 1).
        epsilon: Added to the root of that mean, 0 or more.
        weight_decay: Added to the gradient as ``weight_decay * parameter``.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        state_scope: How long the buffers live; see :data:`fedlama.choices.solvers.base.StateScope`.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> solver, x = Adam(learning_rate=0.1), [torch.tensor([1.0])]
        >>> state = solver.init(x)
        >>> solver.step(x, [torch.tensor([5.0])], state, 0.1, [True], [])
        >>> x  # the first step has the size of the rate, whatever the gradient
        [tensor([0.9000])]
    """

    name: ClassVar[str] = "adam"
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_normalisation: bool = True
    state_scope: StateScope = "cohort"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "epsilon", "weight_decay")
        problems += between(self, 0, 1, "beta1", "beta2")
        refuse(problems + one_of(self, "state_scope", STATE_SCOPES))

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return zeros: means of gradients and of squares, and a number of steps for each parameter, of shape ()."""
        return {
            "mean": [torch.zeros_like(parameter) for parameter in parameters],
            "square": [torch.zeros_like(parameter) for parameter in parameters],
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
        gradients = self._decay(parameters, gradients, [normal or self.decay_normalisation for normal in decayed], rate)
        torch._foreach_add_(optimizer_state["steps"], 1)
        counts = torch.stack(optimizer_state["steps"]).double()  # (parameters, clients)
        sizes = rate / (1.0 - self.beta1**counts)
        roots = (1.0 - self.beta2**counts).sqrt()
        values, slopes, means, squares = (
            [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
            for tensors in (parameters, gradients, optimizer_state["mean"], optimizer_state["square"])
        )
        torch._foreach_lerp_(means, slopes, 1.0 - self.beta1)
        torch._foreach_mul_(squares, self.beta2)
        torch._foreach_addcmul_(squares, slopes, slopes, 1.0 - self.beta2)
        below = torch._foreach_sqrt(squares)
        for value, mean, under, size, root in zip(values, means, below, sizes, roots, strict=True):
            under.div_(along_clients(root, under)).add_(self.epsilon)
            value.sub_(along_clients(size, value) * mean / under)

    def _decay(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], decayed: Sequence[bool], rate: float
    ) -> list[Tensor]:
        """Apply weight decay, and return the gradients to go on with."""
        return with_decay(parameters, gradients, decayed, self.weight_decay)


@register("solver")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters by itself, apart from the gradient.

    Args:
        weight_decay: Each step multiplies a parameter by ``1 - rate * weight_decay``, before Adam's step.

    All other settings are those of :class:`Adam`.

    Example:
        >>> AdamW(learning_rate=0.1).weight_decay
        0.01
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.01

    def _decay(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], decayed: Sequence[bool], rate: float
    ) -> list[Tensor]:
        """Shrink the parameters; the gradients stay as they are."""
        chosen = [parameter for parameter, decays in zip(parameters, decayed, strict=True) if decays]
        if self.weight_decay and chosen:
            torch._foreach_mul_(chosen, 1.0 - rate * self.weight_decay)
        return list(gradients)
