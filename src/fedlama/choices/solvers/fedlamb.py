"""Fed-LAMB and Fed-AMS: adaptive local steps whose second moment comes from the server.

Karimi, Li P. and Li X., "Layer-wise and Dimension-wise Locally Adaptive Federated Learning", UAI 2023 (arXiv
2110.00532), Algorithm 1 of its later text. With vhat the server's second moment, fixed during a round, a step is

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2,   psi = m / (sqrt(vhat) + epsilon)
    Fed-LAMB: theta <- theta - rate * ||theta|| * (psi + lambda theta) / ||psi + lambda theta||   (per parameter tensor)
    Fed-AMS:  theta <- theta - rate * (psi + lambda theta)

A client keeps its own m, also while others train; v starts each round at vhat and goes up with the model, and the
server sets vhat <- max(vhat, mean of the clients' v), element by element. No bias is corrected. So the model and vhat
go down, and the model and v go up: twice FedAvg's bytes. The clients' mean is that of `weighting`; the source's is
equal.

=============  =====================================  ==================================================================
switch         default                                the source
=============  =====================================  ==================================================================
zero_norm      "unit": a tensor whose norm is 0       "stay": it never moves (its text says nothing of it)
               takes a step of norm `rate`
first_round    Fed-LAMB "global", Fed-AMS "own"       text "global": where vhat is 0, psi is m / epsilon. For Fed-LAMB
                                                      the norm cancels it; Fed-AMS would leave the finite numbers, and
                                                      the authors' program divides by the client's own sqrt(v) there
interval       1                                      1; its authors say that v need not be sent in every round
scale          "direction"                            program "mean": ||theta|| / ||m|| scales m, before it is divided
                                                      by sqrt(vhat), so the step has another norm
decay_in       "direction"                            program "gradient": lambda theta is added to g
start          0                                      program 1e-8, of m and vhat
=============  =====================================  ==================================================================

The preset `authors` (:mod:`fedlama.federation.presets`) sets ``zero_norm="stay"``, ``first_round="own"`` and what is
called the program's above. It does not repeat two faults of the program: the lists of the clients' moments refer to
one set of tensors, so that clients begin with the moments of others, and in a model with buffers a parameter gets the
moments of another tensor.

With an `interval` of more than one round v has an interval of its own, apart from the strategy's: between two uploads a
client goes on from its own v, and vhat stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState, StateScope
from fedlama.choices.solvers.exchanged import Exchanged, server_value_of
from fedlama.choices.solvers.options import SolverOptions, with_decay
from fedlama.choices.solvers.per_client import along_clients, tensor_norms
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import at_least, between, normalise_numbers, one_of, refuse, whole

SECOND = "second"
"""The kind of the second moment, which is exchanged."""


@register("solver")
@dataclass(frozen=True)
class FedAMS(SolverOptions):
    """Locally adaptive steps with the server's second moment.

    Args:
        learning_rate: The rate alpha, 0 or more.
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of their squares, in [0, 1).
        epsilon: Added to the root of the second moment, more than 0.
        weight_decay: lambda, 0 or more: added to the direction as ``weight_decay * parameter``.
        decay_normalisation: Whether weight decay covers the parameters of normalisation modules too.
        first_round: What divides m where the server has no second moment yet; see the module.
        interval: Rounds between two uploads of v, 1 or more.
        state_scope: How long m lives; ``"client"`` as in the source.
        decay_in: Whether weight decay is added to the ``"direction"``, or to the ``"gradient"``.
        start: First value of every element of m and of the server's second moment, 0 or more.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "fed-ams"
    always_stacked: ClassVar[bool] = True
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_normalisation: bool = True
    first_round: Literal["global", "own"] = "own"
    interval: int = 1
    state_scope: StateScope = "client"
    decay_in: Literal["direction", "gradient"] = field(default="direction", metadata=LEFT_OUT_AT_DEFAULT)
    start: float = field(default=0.0, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "epsilon", "weight_decay", "start")
        problems += between(self, 0, 1, "beta1", "beta2") + whole(self, "interval", minimum=1)
        problems += one_of(self, "first_round", ("global", "own"))
        problems += one_of(self, "decay_in", ("direction", "gradient"))
        problems += one_of(self, "state_scope", ("client", "cohort"))
        refuse(problems + self._misfits())

    def _misfits(self) -> list[str]:
        return []

    @property
    def exchanges(self) -> tuple[Exchanged, ...]:
        """The second moment: the server keeps the largest average."""
        return (Exchanged(SECOND, "maximum", self.interval, start=self.start),)

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return the first means of gradients."""
        return {"mean": [torch.full_like(parameter, self.start) for parameter in parameters]}

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
        means, seconds = optimizer_state["mean"], optimizer_state[SECOND]
        if self.decay_in == "gradient":
            gradients = self._decayed(parameters, gradients, decayed)
        torch._foreach_mul_(means, self.beta1)
        torch._foreach_add_(means, list(gradients), alpha=1.0 - self.beta1)
        torch._foreach_mul_(seconds, self.beta2)
        torch._foreach_addcmul_(seconds, list(gradients), list(gradients), 1.0 - self.beta2)
        moments = optimizer_state[server_value_of(SECOND)]
        if self.first_round == "own":
            pairs = zip(moments, seconds, strict=True)
            moments = [torch.where(known > self.start, known, second) for known, second in pairs]
        self._move(parameters, self._directions(parameters, means, moments, decayed), means, rate)

    def _directions(
        self, parameters: Sequence[Tensor], means: Sequence[Tensor], moments: Sequence[Tensor], decayed: Sequence[bool]
    ) -> list[Tensor]:
        """Return psi + lambda theta of every parameter."""
        directions = [mean / (moment.sqrt() + self.epsilon) for mean, moment in zip(means, moments, strict=True)]
        return directions if self.decay_in == "gradient" else self._decayed(parameters, directions, decayed)

    def _decayed(
        self, parameters: Sequence[Tensor], directions: Sequence[Tensor], decayed: Sequence[bool]
    ) -> list[Tensor]:
        """Return directions or gradients with ``lambda theta`` added where a parameter decays."""
        decayed = [normal or self.decay_normalisation for normal in decayed]
        return with_decay(parameters, directions, decayed, self.weight_decay)

    def _move(
        self, parameters: Sequence[Tensor], directions: Sequence[Tensor], means: Sequence[Tensor], rate: float
    ) -> None:
        """Move the parameters, each (clients, ...), against their directions."""
        torch._foreach_add_(list(parameters), list(directions), alpha=-rate)


@register("solver")
@dataclass(frozen=True)
class FedLAMB(FedAMS):
    """Fed-AMS whose step of every parameter tensor is as long as ``rate`` times the tensor's norm.

    Args:
        zero_norm: What becomes of a tensor whose norm is 0, such as a bias at its start: ``"unit"`` lets it take a step
            of norm `rate`, ``"stay"`` leaves it at 0 for ever, as the source's rule does.
        scale: What the tensor's norm is divided by: the norm of the ``"direction"``, or that of the ``"mean"`` m.

    All other settings are those of :class:`FedAMS`.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> x, v = [torch.tensor([[3.0, 4.0]])], [torch.zeros(1, 2)]  # one client
        >>> state = FedLAMB().init(x) | {"second": v, "server second": [torch.zeros(2)]}
        >>> FedLAMB().step(x, [torch.tensor([[0.0, 7.0]])], state, 0.1, [True], [])
        >>> x  # a step of 0.1 * 5 against the gradient
        [tensor([[3.0000, 3.5000]])]
    """

    name: ClassVar[str] = "fed-lamb"
    first_round: Literal["global", "own"] = "global"
    zero_norm: Literal["unit", "stay"] = "unit"
    scale: Literal["direction", "mean"] = field(default="direction", metadata=LEFT_OUT_AT_DEFAULT)

    def _misfits(self) -> list[str]:
        return one_of(self, "zero_norm", ("unit", "stay")) + one_of(self, "scale", ("direction", "mean"))

    def _move(
        self, parameters: Sequence[Tensor], directions: Sequence[Tensor], means: Sequence[Tensor], rate: float
    ) -> None:
        """Move the parameters by steps of norm ``rate * ||theta||``, which the scale ``"mean"`` changes."""
        measured = directions if self.scale == "direction" else means
        lengths, norms = tensor_norms(measured), tensor_norms(parameters)  # (clients,) each
        for parameter, direction, length, norm in zip(parameters, directions, lengths, norms, strict=True):
            wanted = norm if self.zero_norm == "stay" else torch.where(norm > 0, norm, torch.ones_like(norm))
            # A direction of length 0 has nowhere to go.
            factor = torch.where(length > 0, rate * wanted / length, torch.zeros_like(length))
            parameter.sub_(along_clients(factor, parameter) * direction)
