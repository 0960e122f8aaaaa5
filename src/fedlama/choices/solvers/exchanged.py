"""Named extra tensors: what a solver exchanges with the server beside the model, one tensor for each parameter.

A solver names them in a property `exchanges`. Each kind is then a layer of its own for every layer of the model, such
as ``"second/fc.weight"``, so messages, the ledger, checkpoints and deployments treat it as they treat layers:

============  ========================================================================================================
on a client   the tensors are among the buffers of :meth:`~fedlama.choices.solvers.base.LocalSolver.step`, under their
              kind. They begin with the server's value, the solver changes them in place, and at the end of a round that
              is a multiple of `interval` they are uploaded. The server's value itself, which does not change within a
              round, is there too, under :func:`server_value_of` the kind, without a leading dimension for clients
on the        the clients' tensors are averaged with the weights p_i, and `reduction` says how the average enters the
server        server's value, which goes down again as a changed layer does
in bytes      as many as the model takes in float32, in both directions and whatever the codec: a codec made for changes
              of weights would spoil second moments. The paper's cost C counts them as parameters
============  ========================================================================================================

Strategies do not see them: they are sent when their own interval ends. A layer that is frozen in a round does not
train, so tensors that are exchanged in every round are left out with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from fedlama.core.layers import Layer, Layers
from fedlama.core.plan import Plan
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole

Reduction = Literal["mean", "sum", "maximum"]
"""How the clients' average A enters the server's value S: ``"mean"``: A; ``"sum"``: S + s A, with s the share of all
clients that answered; ``"maximum"``: the larger of both, element by element."""


@dataclass(frozen=True)
class Exchanged:
    """One kind of extra tensors.

    Attributes:
        kind: Its name among the solver's buffers.
        reduction: How the average enters the server's value.
        interval: Rounds between two uploads, 1 or more.
        start: The server's first value of every element.

    Raises:
        ConfigError: The kind has a slash, the reduction is unknown, or the interval is not an integer of 1 or more.
    """

    kind: str
    reduction: Reduction = "mean"
    interval: int = 1
    start: float = 0.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "reduction", get_args(Reduction)) + whole(self, "interval", minimum=1)
        if not self.kind or "/" in self.kind:
            problems.append(f"Exchanged: kind is {self.kind!r}, expected a name without '/'; rename it")
        refuse(problems)

    def reduced(self, previous: Tensor, average: Tensor, share: float, state: dict[str, Tensor]) -> Tensor:
        """Return the server's new value.

        Args:
            previous: Its value before; never changed.
            average: The clients' average, of the same shape.
            share: The clients that answered, as a share of all clients.
            state: What the server keeps of this tensor, by name; a kind of one's own may change it in place.

        >>> Exchanged("second", "maximum").reduced(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0]), 0.5, {})
        tensor([2., 4.])
        >>> Exchanged("control", "sum").reduced(torch.tensor([1.0]), torch.tensor([2.0]), 0.5, {})
        tensor([2.])
        """
        if self.reduction == "maximum":
            return torch.maximum(previous, average)
        return average if self.reduction == "mean" else previous + share * average


class Exchanging(Protocol):
    """A solver that exchanges more than the model.

    A solver may also have a method ``end_round(parameters, optimizer_state, reference)``, which every engine calls
    after a round's last step with the arguments that `step` had, for all clients of a stack at once. With a class
    attribute ``gradient_pass``, the name of a kind, that kind holds the mean gradient of all the client's data at the
    model with which the round begins, before its first step.
    """

    @property
    def exchanges(self) -> tuple[Exchanged, ...]:
        """The kinds of extra tensors."""


def exchanges_of(solver: object) -> tuple[Exchanged, ...]:
    """Return the kinds of extra tensors of a solver; most have none.

    Args:
        solver: Any solver, also one of the user's own that does not know of them.
    """
    return tuple(getattr(solver, "exchanges", ()))


def server_value_of(kind: str) -> str:
    """Return the name under which a solver finds the server's value of a kind.

    >>> server_value_of("second")
    'server second'
    """
    return f"server {kind}"


def extra_name(kind: str, name: str) -> str:
    """Return the name of the extra tensor of a parameter, or of the extra layer of a layer.

    >>> extra_name("second", "fc.weight")
    'second/fc.weight'
    """
    return f"{kind}/{name}"


def kind_of(layer: Layer) -> str:
    """Return the kind of an extra layer."""
    return layer.name.partition("/")[0]


def extra_layers(layers: Layers, exchanges: Sequence[Exchanged]) -> Layers:
    """Return the layers of extra tensors: for each kind one for every layer with parameters.

    Args:
        layers: The layers of the model that are sent.
        exchanges: The kinds.
    """
    return tuple(_extra_layer(exchange.kind, layer) for exchange in exchanges for layer in layers if layer.parameters)


def _extra_layer(kind: str, layer: Layer) -> Layer:
    tensors = tuple(
        replace(spec, name=extra_name(kind, spec.name), trainable=False, extra=True)
        for spec in layer.tensors
        if spec.trainable
    )
    return Layer(extra_name(kind, layer.name), tensors, adaptive=False)


def with_extras(plan: Plan, layers: Layers, exchanges: Sequence[Exchanged]) -> Plan:
    """Return a strategy's plan with the extra layers that are due in its round.

    Args:
        plan: The plan; returned as it is where a solver exchanges nothing.
        layers: The layers of the model that are sent.
        exchanges: The kinds.
    """
    if not exchanges:
        return plan
    intervals = dict(_intervals(layers, exchanges))
    due = {
        extra_name(exchange.kind, layer.name)
        for exchange in exchanges
        for layer in layers
        if layer.parameters
        and (plan.round_index + 1) % exchange.interval == 0
        and not (exchange.interval == 1 and layer.name in plan.frozen)
    }
    return replace(plan, upload=plan.upload | due, intervals={**plan.intervals, **intervals})


def _intervals(layers: Layers, exchanges: Sequence[Exchanged]) -> Iterator[tuple[str, int]]:
    for exchange in exchanges:
        for layer in layers:
            if layer.parameters:
                yield extra_name(exchange.kind, layer.name), exchange.interval
