"""What every solver of this package can be given besides its own settings: a schedule, clipping and parameter groups.

A solver of the user's own gets them too if it inherits from :class:`SolverOptions`. Its `step` need not know: engines
apply them around it, through :class:`~fedlama.choices.solvers.local_update.LocalUpdate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedlama.choices.solvers.base import LocalSolver
from fedlama.choices.solvers.clipping import Clipping
from fedlama.choices.solvers.groups import ParameterGroup, group_problems
from fedlama.choices.solvers.schedule import Schedule
from fedlama.core.budget import Budget
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import Layers

NO_CLIPPING = Clipping()  # made once, as they check their settings
_DEFAULTS = Schedule(), NO_CLIPPING


@dataclass(frozen=True, kw_only=True)
class SolverOptions(LocalSolver):
    """The settings that solvers have in common; to be inherited from.

    Args:
        schedule: A factor on the learning rate, over local steps or rounds.
        clipping: Limits of every client's gradient.
        groups: Layers that train with another rate or weight decay, or not at all; a group's `weight_decay` needs a
            solver with a field of that name.
    """

    schedule: Schedule = field(default=Schedule(), metadata=LEFT_OUT_AT_DEFAULT)
    clipping: Clipping = field(default=Clipping(), metadata=LEFT_OUT_AT_DEFAULT)
    groups: tuple[ParameterGroup, ...] = field(default=(), metadata=LEFT_OUT_AT_DEFAULT)


class Options(NamedTuple):
    """A solver's :class:`SolverOptions`, or their defaults for a solver without any."""

    schedule: Schedule
    clipping: Clipping
    groups: tuple[ParameterGroup, ...]


def options_of(solver: LocalSolver) -> Options:
    """Return a solver's schedule, clipping and groups.

    Args:
        solver: Any solver, also one of the user's own that does not have them.
    """
    return Options(
        getattr(solver, "schedule", _DEFAULTS[0]),
        getattr(solver, "clipping", _DEFAULTS[1]),
        tuple(getattr(solver, "groups", ())),
    )


def rates_of(solver: LocalSolver, first: int, count: int, round_index: int, budget: Budget | None) -> tuple[float, ...]:
    """Return the learning rates of neighbouring local steps of a round, the schedule included.

    Args:
        solver: The solver.
        first: The first step on the run's clock, from 0; see :mod:`fedlama.choices.solvers.schedule`.
        count: How many steps.
        round_index: The round, from 0.
        budget: The length of the run; None where it is not known.
    """
    schedule = options_of(solver).schedule
    steps = range(first, first + count)
    if schedule == _DEFAULTS[0]:
        return tuple([solver.rate(step) for step in steps])
    return tuple([solver.rate(step) * schedule.at_step(step, round_index, budget) for step in steps])


def option_problems(solver: LocalSolver, layers: Layers, budget: Budget) -> list[str]:
    """Return what of a solver's options does not fit the federation, one sentence each.

    Args:
        solver: The solver.
        layers: The labelling.
        budget: The length of the run.
    """
    options = options_of(solver)
    problems = group_problems(options.groups, layers) + options.schedule.problems(budget)
    problems += getattr(solver, "layer_problems", lambda _: [])(layers)
    names: list[str] = [item.name for item in fields(solver)] if is_dataclass(solver) else []
    if "weight_decay" not in names and any(group.weight_decay is not None for group in options.groups):
        problems.append(
            f"solver.groups: {type(solver).__name__} has no field weight_decay that a group could replace; remove "
            "weight_decay from the groups, or add the field to the solver"
        )
    complex_names = [spec.name for layer in layers for spec in layer.tensors if spec.dtype.is_complex]
    if options.clipping.value is not None and complex_names:
        problems.append(
            f"solver.clipping.value limits single numbers, but the tensor {complex_names[0]} is complex, and complex "
            "numbers have no order; use clipping.norm"
        )
    return problems


def with_decay(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], decayed: Sequence[bool], weight_decay: float
) -> list[Tensor]:
    """Return gradients with ``weight_decay * parameter`` added where a parameter decays.

    Args:
        parameters: The parameters, each (clients, ...).
        gradients: Their gradients; they are not changed.
        decayed: For each parameter, whether it decays.
        weight_decay: The factor.
    """
    gradients = list(gradients)
    chosen = [index for index, decays in enumerate(decayed) if decays]
    if weight_decay and chosen:
        shrunk = torch._foreach_add(
            [gradients[index] for index in chosen], [parameters[index] for index in chosen], alpha=weight_decay
        )
        for index, gradient in zip(chosen, shrunk, strict=True):
            gradients[index] = gradient
    return gradients
