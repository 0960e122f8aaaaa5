"""SGD with momentum, weight decay, learning-rate warm-up and stepwise decay.

There are two conventions of momentum, and they differ whenever the learning rate changes: PyTorch's velocity sums up
gradients and is multiplied by the rate at each step; in Keras the rate is already in the velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.solvers.base import LocalSolver, OptimizerState, StateScope
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, one_of, refuse, whole
from fedlama.errors import shown


@register("solver")
@dataclass(frozen=True)
class SGD(LocalSolver):
    """Stochastic gradient descent on each client.

    Args:
        learning_rate: eta, 0 or more.
        momentum: In [0, 1).
        weight_decay: Added to the gradient as ``weight_decay * parameter``. Keras's ``l2(w)`` equals ``2 * w`` here.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        velocity: ``"gradient"`` is PyTorch's convention, ``"step"`` is Keras's.
        warm_up_steps: Local steps over which the rate rises linearly, from learning_rate / warm_up_steps; 0 for none.
        decay_at: Local steps, counted over the whole run; from each of them on, the rate is multiplied by
            `decay_factor`.
        decay_factor: See `decay_at`.
        state_scope: How long momentum lives; see :data:`fedlama.choices.solvers.base.StateScope`.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> solver = SGD(learning_rate=0.8, warm_up_steps=4, decay_at=(10,))
        >>> [round(solver.rate(step), 3) for step in (0, 3, 9, 10)]
        [0.2, 0.8, 0.8, 0.08]
    """

    name: ClassVar[str] = "sgd"
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_normalisation: bool = True
    velocity: Literal["gradient", "step"] = "gradient"
    warm_up_steps: int = 0
    decay_at: tuple[int, ...] = ()
    decay_factor: float = 0.1
    state_scope: StateScope = "cohort"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "weight_decay", "decay_factor") + between(self, 0, 1, "momentum")
        problems += whole(self, "warm_up_steps", minimum=0)
        if not isinstance(self.decay_at, tuple) or not all(isinstance(step, int) for step in self.decay_at):
            kind, given = type(self).__name__, shown(self.decay_at)
            problems.append(f"{kind}: decay_at is {given}, expected a tuple of local steps; use one such as (100, 200)")
        problems += one_of(self, "velocity", ("gradient", "step"))
        refuse(problems + one_of(self, "state_scope", ("cohort", "slot", "round")))

    def rate(self, step: int) -> float:
        """Return the learning rate of a local step, counted from 0 over the whole run."""
        warm = min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else 1.0
        return self.learning_rate * warm * self.decay_factor ** sum(step >= at for at in self.decay_at)

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return zero velocities; none without momentum."""
        return {"velocity": [torch.zeros_like(p) for p in parameters]} if self.momentum else {}

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
        parameters, gradients = list(parameters), list(gradients)
        chosen = [i for i, normal in enumerate(decayed) if normal or self.decay_normalisation]
        if self.weight_decay and chosen:
            shrunk = torch._foreach_add(
                [gradients[i] for i in chosen], [parameters[i] for i in chosen], alpha=self.weight_decay
            )
            for i, gradient in zip(chosen, shrunk, strict=True):
                gradients[i] = gradient
        if not self.momentum:
            torch._foreach_add_(parameters, gradients, alpha=-rate)
            return
        velocity = optimizer_state["velocity"]
        torch._foreach_mul_(velocity, self.momentum)
        if self.velocity == "gradient":
            torch._foreach_add_(velocity, gradients)
            torch._foreach_add_(parameters, velocity, alpha=-rate)
        else:
            torch._foreach_add_(velocity, gradients, alpha=-rate)
            torch._foreach_add_(parameters, velocity)
