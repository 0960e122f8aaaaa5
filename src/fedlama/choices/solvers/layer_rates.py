"""SGD with a learning rate for each of the model's children, from the norm of its gradient (FLAYER).

Chen, Yang, Ren, Li and Wang, FLAYER, IJCAI 2025 (arXiv 2412.07062), equations 3 and 4. A layer is a child of the model,
such as ``conv1`` of ``conv1.weight``. With children 0 to D that have parameters, eta the learning rate and c a factor,
the rate of child j is

    eta                                                          of the first child,
    mean over its tensors of c eta (1 + j/D ln(1 + 1 / ||g||))   of those between,
    eta / 5                                                      of the last child,

g the gradient of the first batch of a round. A model with one child has the rate eta.

The authors' program computes the rates at the first batch of every local epoch; set `refresh_steps` to the steps of an
epoch where a round has several. The factor c is 20 for their CNN and 1 for their other networks; it is in the program
only. A gradient of norm 0 divides by zero there, and is taken to be 1e-8 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState, StateScope
from fedlama.choices.solvers.options import SolverOptions
from fedlama.choices.solvers.per_client import along_clients, tensor_norms
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, refuse, whole
from fedlama.errors import ConfigError

_SMALLEST_NORM = 1e-8


@register("solver")
@dataclass(frozen=True)
class LayerRates(SolverOptions):
    """Plain SGD with a rate for each child of the model.

    Args:
        learning_rate: The rate eta of the first child, 0 or more.
        factor: c, which multiplies the rates of the children between the first and the last; 0 or more.
        last_divisor: What the last child's rate is divided by, more than 0.
        refresh_steps: Local steps after which rates are computed again; None for once in a round.
        most: The largest rate as a multiple of eta; None for no limit, as in the source. Late children see small
            gradients, with which their rates grow.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> solver = LayerRates(0.1).for_parameters(["a", "b", "c"], ["a", "b", "c"])
        >>> [round(float(factor), 3) for factor in solver.factors([torch.tensor([norm]) for norm in (1.0, 0.5, 1.0)])]
        [1.0, 1.549, 0.2]
    """

    name: ClassVar[str] = "layer-rates"
    always_stacked: ClassVar[bool] = True
    learning_rate: float = 0.1
    factor: float = 1.0
    last_divisor: float = 5.0
    refresh_steps: int | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "learning_rate", "factor", "last_divisor")
        if self.most is not None:
            problems += at_least(self, 0, "most")
        if self.refresh_steps is not None:
            problems += whole(self, "refresh_steps", minimum=1)
        if not problems and self.last_divisor == 0:
            problems.append("LayerRates: last_divisor is 0, expected more than 0; use 5 as in the source")
        refuse(problems)

    @property
    def state_scope(self) -> StateScope:
        """Rates are of one round."""
        return "round"

    def for_parameters(self, names: Sequence[str], model_names: Sequence[str]) -> RatesOfChildren:
        """Return this solver for some of the model's parameters.

        Args:
            names: Their names, in the order in which a step has them.
            model_names: The names of all trained parameters of the model, in its order.
        """
        return RatesOfChildren(self, names, model_names)

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return the steps of the round, and the rate as a multiple of eta; both of shape ()."""
        return {
            "steps": [torch.zeros((), dtype=torch.int64, device=parameter.device) for parameter in parameters],
            "factor": [torch.ones((), dtype=_real(parameter), device=parameter.device) for parameter in parameters],
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
        """Refuse: engines take the steps of :meth:`for_parameters`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "solver 'layer-rates' must know the names of the parameters, and this engine does not give them; choose "
            "engine='loop', 'stacked' or 'workers'"
        )


class RatesOfChildren:
    """The steps of :class:`LayerRates` for parameters whose names are known.

    Args:
        solver: The settings.
        names: The names of the parameters, in the order of a step.
        model_names: The names of all trained parameters of the model, in its order.
    """

    def __init__(self, solver: LayerRates, names: Sequence[str], model_names: Sequence[str]) -> None:
        self._solver = solver
        children = list(dict.fromkeys(_child(name) for name in model_names))
        self._last = len(children) - 1
        self._positions = [children.index(_child(name)) for name in names]

    def factors(self, norms: Sequence[Tensor]) -> list[Tensor]:
        """Return the rate of each parameter as a multiple of eta.

        Args:
            norms: The norms of their gradients, (clients,) each.

        Returns:
            (clients,) for each parameter.
        """
        members: dict[int, list[Tensor]] = {}
        for position, norm in zip(self._positions, norms, strict=True):
            members.setdefault(position, []).append(norm)
        of_child = {position: self._factor(position, torch.stack(child)) for position, child in members.items()}
        return [of_child[position] for position in self._positions]

    def _factor(self, position: int, norms: Tensor) -> Tensor:
        """Return the multiple of eta of a child, (clients,), from the norms of its tensors, (tensors, clients)."""
        solver = self._solver
        if position == 0:
            return torch.ones_like(norms[0])
        if position == self._last:
            return torch.full_like(norms[0], 1 / solver.last_divisor)
        slow = torch.log1p(1 / norms.clamp(min=_SMALLEST_NORM))
        mean = (solver.factor * (1 + position / self._last * slow)).mean(0)
        return mean if solver.most is None else mean.clamp(max=solver.most)

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step of stacked clients, in place; see :meth:`fedlama.choices.solvers.base.LocalSolver.step`."""
        if not parameters:
            return
        steps, factors = optimizer_state["steps"], optimizer_state["factor"]
        due = steps[0] % self._solver.refresh_steps == 0 if self._solver.refresh_steps else steps[0] == 0  # (clients,)
        if due.device.type != "cpu" or bool(due.any()):  # a look at a device's numbers would wait for it
            for factor, new in zip(factors, self.factors(tensor_norms(gradients)), strict=True):
                factor.copy_(torch.where(due, new.to(factor.dtype), factor))
        for parameter, gradient, factor in zip(parameters, gradients, factors, strict=True):
            parameter.sub_(gradient * along_clients(rate * factor, gradient))
        torch._foreach_add_(list(steps), 1)


def _child(name: str) -> str:
    return name.partition(".")[0]


def _real(tensor: Tensor) -> torch.dtype:
    return tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
