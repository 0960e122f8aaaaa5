"""SGD with momentum (also Nesterov's), weight decay, learning-rate warm-up and stepwise decay.

There are two conventions of momentum, and they differ whenever the learning rate changes: PyTorch's velocity sums up
gradients and is multiplied by the rate at each step; in Keras the rate is already in the velocity. Nesterov's momentum
(Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013) steps from where the
velocity would lead, in the form that PyTorch and Keras have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from fedlama.choices.solvers.base import STATE_SCOPES, LocalSolver, OptimizerState, StateScope
from fedlama.choices.solvers.options import SolverOptions, with_decay
from fedlama.choices.solvers.schedule import Schedule
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, one_of, refuse, whole
from fedlama.errors import shown


class PlainSGD(NamedTuple):
    """The settings of SGD that kernels know: momentum in PyTorch's convention, weight decay, FedProx's pull, any rate.

    Attributes:
        momentum: In [0, 1).
        weight_decay: Added to the gradient as ``weight_decay * parameter``.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        proximal: FedProx's mu; None for SGD.
    """

    momentum: float
    weight_decay: float
    decay_normalisation: bool
    proximal: float | None = None

    def decay(self, decayed: bool) -> float:
        """Return a parameter's weight decay.

        Args:
            decayed: False for a parameter of a normalisation module.
        """
        return self.weight_decay if self.decay_normalisation or decayed else 0.0


@register("solver")
@dataclass(frozen=True)
class SGD(SolverOptions):
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
        nesterov: Whether momentum is Nesterov's; it needs a momentum above 0.

    Schedule, clipping and groups are those of :class:`~fedlama.choices.solvers.options.SolverOptions`. The fields
    `warm_up_steps`, `decay_at` and `decay_factor` are an older form of a schedule; give one or the other.

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
    nesterov: bool = field(default=False, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "weight_decay", "decay_factor") + between(self, 0, 1, "momentum")
        problems += whole(self, "warm_up_steps", minimum=0)
        if not isinstance(self.decay_at, tuple) or not all(isinstance(step, int) for step in self.decay_at):
            kind, given = type(self).__name__, shown(self.decay_at)
            problems.append(f"{kind}: decay_at is {given}, expected a tuple of local steps; use one such as (100, 200)")
        problems += one_of(self, "velocity", ("gradient", "step"))
        if self.nesterov and self.momentum == 0:
            problems.append(f"{type(self).__name__}: nesterov is true, but momentum is 0; use a momentum such as 0.9")
        if self.schedule != Schedule() and (self.warm_up_steps or self.decay_at):
            problems.append(
                f"{type(self).__name__}: a schedule is given together with warm_up_steps or decay_at, which are an "
                "older form of it; use schedule.warm_up and schedule.at instead"
            )
        refuse(problems + one_of(self, "state_scope", STATE_SCOPES))

    def rate(self, step: int) -> float:
        """Return the learning rate of a local step, counted from 0 over the whole run."""
        if not self.warm_up_steps and not self.decay_at:  # the usual case, asked for every local step
            return float(self.learning_rate)
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
        parameters = list(parameters)
        decayed = [normal or self.decay_normalisation for normal in decayed]
        gradients = with_decay(parameters, gradients, decayed, self.weight_decay)
        if not self.momentum:
            torch._foreach_add_(parameters, gradients, alpha=-rate)
            return
        velocity = optimizer_state["velocity"]
        torch._foreach_mul_(velocity, self.momentum)
        scale = 1.0 if self.velocity == "gradient" else -rate  # what enters the velocity: gradients, or steps
        torch._foreach_add_(velocity, gradients, alpha=scale)
        step = -rate if self.velocity == "gradient" else 1.0
        if self.nesterov:
            torch._foreach_add_(parameters, gradients, alpha=step * scale)
            step *= self.momentum
        torch._foreach_add_(parameters, velocity, alpha=step)

    def as_plain_sgd(self) -> PlainSGD | None:
        """Return the settings for kernels, or None where a setting that they do not know has another value.

        Every setting beside those of :data:`_PLAIN` must have its default, also one that is added later.
        """
        if any(getattr(self, item.name) != item.default for item in fields(self) if item.name not in _PLAIN):
            return None
        return PlainSGD(self.momentum, self.weight_decay, self.decay_normalisation)


_PLAIN = (
    *("learning_rate", "momentum", "weight_decay", "decay_normalisation", "warm_up_steps", "decay_at", "decay_factor"),
    *("state_scope", "schedule", "proximal"),
)


def plain_sgd(solver: LocalSolver) -> PlainSGD | None:
    """Return the settings with which kernels written for SGD take a solver's steps, or None where they cannot.

    A solver says so itself, with :meth:`SGD.as_plain_sgd`, which is not inherited: a subclass may take other steps.

    Args:
        solver: Any solver.
    """
    says = vars(type(solver)).get("as_plain_sgd")
    return None if says is None else says(solver)
