"""One local step of any solver, with its clipping and its parameter groups: what engines call for every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedlama.choices.solvers.base import LocalSolver, OptimizerState
from fedlama.choices.solvers.groups import ParameterGroup, group_of
from fedlama.choices.solvers.options import NO_CLIPPING, options_of
from fedlama.core.layers import Layers


@dataclass(frozen=True)
class _Part:
    """The parameters of one group.

    Attributes:
        solver: The solver, with the group's weight decay.
        rate_factor: Multiplies the learning rate.
        positions: Which of the trained parameters.
    """

    solver: LocalSolver
    rate_factor: float
    positions: tuple[int, ...]


class LocalUpdate:
    """Takes steps for the parameters that are trained in a round.

    Args:
        solver: The solver.
        layers: The labelling.
        names: The parameters that are trained.
        shared: The server's values of what the solver exchanges beside the model, by name, aligned with `names`; each
            of one client's shape.
        model_names: The names of all trained parameters of the model, in its order; by default `names`.

    Attributes:
        decayed: Per trained parameter, False for those of normalisation modules.
        ends_rounds: Whether :meth:`end_round` is to be called after a round's last step.
    """

    def __init__(
        self,
        solver: LocalSolver,
        layers: Layers,
        names: Sequence[str],
        shared: Mapping[str, Sequence[Tensor]] | None = None,
        model_names: Sequence[str] | None = None,
    ) -> None:
        solver = for_layers(solver, layers)
        options, self._shared = options_of(solver), {kind: list(values) for kind, values in (shared or {}).items()}
        self._clipping = options.clipping
        layer_of = {spec.name: layer.name for layer in layers for spec in layer.tensors}
        normalising = {spec.name for layer in layers for spec in layer.tensors if spec.normalisation}
        self.decayed = [name not in normalising for name in names]
        members: dict[ParameterGroup | None, list[int]] = {}
        for position, name in enumerate(names):
            members.setdefault(group_of(name, layer_of.get(name, name), options.groups), []).append(position)
        self._parts = [
            _part(named(solver, [names[position] for position in positions], model_names or names), group, positions)
            for group, positions in members.items()
        ]
        self._clips = self._clipping != NO_CLIPPING
        self._always_stacked = bool(getattr(solver, "always_stacked", False))
        self.ends_rounds = hasattr(solver, "end_round")

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        reference: Sequence[Tensor],
    ) -> None:
        """Clip stacked clients' gradients, and take one step for each group, in place.

        Args:
            parameters: What to move, each (clients, ...).
            gradients: Their gradients; may be overwritten.
            optimizer_state: Buffers, aligned with `parameters`, each (clients, ...).
            rate: Learning rate, before the groups' factors.
            reference: As for :meth:`fedlama.choices.solvers.base.LocalSolver.step`.
        """
        self._step(parameters, self._clipping.clipped(gradients), optimizer_state, rate, reference)

    def one(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        reference: Sequence[Tensor],
    ) -> None:
        """Do the same for a client that is trained by itself; its tensors have no leading dimension.

        Args:
            parameters: As for :meth:`__call__`, each of one client's shape; so are the others.
            gradients: Their gradients; may be overwritten.
            optimizer_state: Buffers, aligned with `parameters`.
            rate: Learning rate, before the groups' factors.
            reference: As for :meth:`fedlama.choices.solvers.base.LocalSolver.step`.
        """
        if self._always_stacked:  # views: the solver works in place on the client's own tensors
            views = {kind: _leading(buffers) for kind, buffers in optimizer_state.items()}
            self(_leading(parameters), _leading(gradients), views, rate, reference)
            return
        if self._clips:
            gradients = [gradient[0] for gradient in self._clipping.clipped(_leading(gradients))]
        self._step(parameters, gradients, optimizer_state, rate, reference)

    def end_round(
        self, parameters: Sequence[Tensor], optimizer_state: OptimizerState, reference: Sequence[Tensor]
    ) -> None:
        """Let the solver end the round of stacked clients, in place.

        Args:
            parameters: The trained parameters after the last step, each (clients, ...).
            optimizer_state: Buffers, aligned with `parameters`, each (clients, ...).
            reference: As for :meth:`fedlama.choices.solvers.base.LocalSolver.step`.
        """
        state = {**optimizer_state, **self._shared}
        for part in self._parts:
            solver: Any = part.solver  # has the method; see `ends_rounds`
            solver.end_round(
                _picked(parameters, part),
                {kind: _picked(buffers, part) for kind, buffers in state.items()},
                _picked(reference, part) if reference else [],
            )

    def end_round_of_one(
        self, parameters: Sequence[Tensor], optimizer_state: OptimizerState, reference: Sequence[Tensor]
    ) -> None:
        """Do the same for a client that is trained by itself; its tensors have no leading dimension."""
        self.end_round(
            _leading(parameters), {kind: _leading(buffers) for kind, buffers in optimizer_state.items()}, reference
        )

    def _step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        reference: Sequence[Tensor],
    ) -> None:
        if self._shared:
            optimizer_state = {**optimizer_state, **self._shared}
        if len(self._parts) == 1:  # the usual case, without copies of the lists
            (part,) = self._parts
            rate = rate * part.rate_factor
            part.solver.step(parameters, gradients, optimizer_state, rate, self.decayed, reference)
            return
        for part in self._parts:
            part.solver.step(
                _picked(parameters, part),
                _picked(gradients, part),
                {kind: _picked(buffers, part) for kind, buffers in optimizer_state.items()},
                rate * part.rate_factor,
                _picked(self.decayed, part),
                _picked(reference, part) if reference else [],
            )


def _picked(items: Sequence[Any], part: _Part) -> list[Any]:
    """Return what belongs to the parameters of one group."""
    return [items[position] for position in part.positions]


def _leading(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return views with a leading dimension for the one client, (1, ...)."""
    return [tensor.unsqueeze(0) for tensor in tensors]


def _part(solver: LocalSolver, group: ParameterGroup | None, positions: Sequence[int]) -> _Part:
    if group is None:
        return _Part(solver, 1.0, tuple(positions))
    if group.weight_decay is not None:
        changed: Any = solver  # a dataclass with such a field; see `options.option_problems`
        solver = replace(changed, weight_decay=group.weight_decay)
    return _Part(solver, group.rate_factor, tuple(positions))


def for_layers(solver: LocalSolver, layers: Layers) -> LocalSolver:
    """Return a solver that knows the labelling, where it asks for it with `for_layers`.

    Args:
        solver: Any solver.
        layers: The layers that are trained.
    """
    bind = getattr(solver, "for_layers", None)
    known: LocalSolver = solver if bind is None else bind(layers)
    return known


def all_at_once(solver: LocalSolver) -> LocalSolver:
    """Return a solver that trains all layers in each step: another one where a solver says so with `all_at_once`.

    Args:
        solver: Any solver.
    """
    whole = getattr(solver, "all_at_once", None)
    known: LocalSolver = solver if whole is None else whole()
    return known


def named(solver: LocalSolver, names: Sequence[str], model_names: Sequence[str]) -> LocalSolver:
    """Return a solver that knows the names of its parameters, where it asks for them with `for_parameters`.

    Args:
        solver: Any solver.
        names: The names of the parameters that it moves.
        model_names: The names of all trained parameters of the model, in its order.
    """
    bind = getattr(solver, "for_parameters", None)
    known: LocalSolver = solver if bind is None else bind(names, model_names)
    return known
