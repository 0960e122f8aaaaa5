"""SGD with momentum, weight decay, learning-rate warm-up and stepwise decay.

Two conventions of momentum exist, and they differ whenever the learning rate changes: PyTorch's velocity collects
gradients and the rate is applied when stepping; in Keras's the rate goes into the velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState, StateScope
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, one_of, refuse


@register("solver")
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent on each client.

    Args:
        learning_rate: eta.
        momentum: In [0, 1).
        weight_decay: Added to the gradient as ``weight_decay * parameter``. Keras's ``l2(w)`` equals ``2 * w`` here.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        velocity: ``"gradient"`` is PyTorch's convention, ``"step"`` is Keras's.
        warm_up_steps: The rate rises linearly from learning_rate / warm_up_steps over so many local steps.
        decay_at: Local steps, counted over the whole run, from which on the rate is multiplied by `decay_factor`.
        decay_factor: See `decay_at`.
        state_scope: How long momentum lives; see :data:`fedlama.choices.solvers.base.StateScope`.

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
        problems = at_least(self, 0, "learning_rate", "weight_decay", "warm_up_steps", "decay_factor")
        problems += between(self, 0, 1, "momentum")
        problems += one_of(self, "velocity", ("gradient", "step"))
        refuse(problems + one_of(self, "state_scope", ("cohort", "slot", "round")))

    @property
    def uses_reference(self) -> bool:
        """Plain SGD does not look back."""
        return False

    def rate(self, step: int) -> float:
        """Learning rate at a local step, counted from 0 over the whole run."""
        warm = min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else 1.0
        return self.learning_rate * warm * self.decay_factor ** sum(step >= at for at in self.decay_at)

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Zero velocities, none without momentum."""
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
        """Take one step in place; see :meth:`fedlama.choices.solvers.base.LocalSolver.step`."""
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
