"""FedRep: in each round a client trains its own head, with the body fixed, and then the body, with the head fixed.

Collins, Hassani, Mokhtari and Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning", ICML
2021, Algorithm 1. With tau local steps in a round, of which tau_h are `head_steps`, and g the gradient of a batch's
loss,

    steps 1 to tau_h:        h <- h - rate * g_h      (the head)
    steps tau_h + 1 to tau:  x <- x - rate * g_x      (the body)

The head is all layers that are tagged ``local``: they stay on their client, and the server averages the body alone. A
part that is fixed does not move at all: no weight decay, and its momentum waits. Momentum begins with zeros in each
round, as in the authors' program, which makes new optimizers.

Deviations: the source counts the head's training in epochs of a client's data, ten for one of the body in most of its
experiments; here both count in local steps, on batches that go on through the client's data. `clipping.norm` limits the
gradient of the whole model, the part that is fixed included. Normalisation statistics of a fixed body go on, as in the
authors' program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import LocalSolver, OptimizerState, StateScope
from fedlama.choices.solvers.per_client import along_clients
from fedlama.choices.solvers.sgd import SGD
from fedlama.core.layers import Layers, local_layers
from fedlama.core.registry import register
from fedlama.core.validation import refuse, whole
from fedlama.errors import ConfigError, shown


@register("solver")
@dataclass(frozen=True)
class FedRep(SGD):
    """SGD for the head, then for the body; all fields of :class:`~fedlama.choices.solvers.sgd.SGD` besides.

    Args:
        head_steps: The first local steps of a round, in which the head is trained, the source's tau_h; 1 or more. The
            other steps of the round train the body. A client that is too slow for more than these sends its body as it
            received it.
        state_scope: How long momentum lives; ``"round"``, as in the source.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> solver = FedRep(learning_rate=0.1, head_steps=2).with_head([False, True])
        >>> model = [torch.tensor([1.0]), torch.tensor([1.0])]  # the body and the head, one number each
        >>> state = solver.init(model)
        >>> for _ in range(3):
        ...     solver.step(model, [torch.tensor([1.0]), torch.tensor([1.0])], state, 0.1, [True, True], [])
        >>> model  # one step of the body, and two of the head
        [tensor([0.9000]), tensor([0.8000])]
    """

    name: ClassVar[str] = "fedrep"
    head_steps: int = 1
    state_scope: StateScope = "round"

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = whole(self, "head_steps", minimum=1)
        if self.state_scope != "round":
            problems.append(
                f"FedRep: state_scope is {shown(self.state_scope)}, expected 'round', since each round begins with the "
                "head; leave it out"
            )
        refuse(problems)

    def for_layers(self, layers: Layers) -> HeadThenBody:
        """Return this solver with the head of a labelling.

        Args:
            layers: The layers that are trained.
        """
        head = frozenset(spec.name for layer in local_layers(layers) for spec in layer.tensors)
        return HeadThenBody(**_settings(self), head=head)

    def with_head(self, is_head: Sequence[bool]) -> HeadThenBody:
        """Return what takes the steps of some parameters.

        Args:
            is_head: For each parameter, whether it is one of the head.
        """
        return HeadThenBody(**_settings(self), is_head=tuple(is_head))

    def layer_problems(self, layers: Layers) -> list[str]:
        """Return what of a labelling does not suit this solver, one sentence each.

        Args:
            layers: The labelling.
        """
        if any(spec.trainable for layer in local_layers(layers) for spec in layer.tensors):
            return []
        return [
            "solver is 'fedrep', which trains a head that stays on its client, but no layer is tagged 'local'; name "
            "the output layers, as in layers.local=['fc.*'] in an experiment or fedlama.tagged(layers, local=['fc.*']) "
            "in Python"
        ]

    def all_at_once(self) -> SGD:
        """Return SGD with the same settings, for central training, which has no heads, and to check a first step."""
        kept = {item.name for item in fields(SGD)} - {"state_scope"}
        return SGD(**{name: value for name, value in _settings(self).items() if name in kept})

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return zero velocities, where there is momentum, and the steps of the round, of shape ()."""
        steps = [torch.zeros((), dtype=torch.int64, device=parameter.device) for parameter in parameters]
        return {**super().init(parameters), "steps": steps}

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Refuse: engines take the steps of :meth:`for_layers`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "solver 'fedrep' must know which layers are the head, and this engine does not say it; choose "
            "engine='loop', 'stacked' or 'workers'"
        )


@dataclass(frozen=True)
class HeadThenBody(FedRep):
    """The steps of :class:`FedRep` for a labelling.

    Args:
        head: Names of the head's tensors.
        is_head: For each parameter of a step, whether it is one of the head.
    """

    head: frozenset[str] = frozenset()
    is_head: tuple[bool, ...] = ()

    def for_parameters(self, names: Sequence[str], model_names: Sequence[str]) -> LocalSolver:
        """Return this solver for some of the model's parameters.

        Args:
            names: Their names, in the order in which a step has them.
            model_names: The names of all trained parameters of the model, in its order.
        """
        return self.with_head([name in self.head for name in names])

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step of the part that is trained, in place; see :meth:`LocalSolver.step`."""
        steps = optimizer_state["steps"]
        moved = [list(parameters), *([optimizer_state["velocity"]] if self.momentum else [])]
        before = [[tensor.clone() for tensor in tensors] for tensors in moved]
        SGD.step(self, parameters, gradients, optimizer_state, rate, decayed, reference)
        for tensors, kept in zip(moved, before, strict=True):
            for tensor, old, done, is_head in zip(tensors, kept, steps, self.is_head, strict=True):
                trains = (done < self.head_steps) == is_head  # (clients,)
                tensor.copy_(torch.where(along_clients(trains, tensor).bool(), tensor, old))
        torch._foreach_add_(list(steps), 1)


def _settings(solver: FedRep) -> dict[str, Any]:
    """Return the settings of the solver, without a head."""
    return {item.name: getattr(solver, item.name) for item in fields(FedRep)}
