"""What every method here shares: the clients, their local training, the weighted mean and the record of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from tests.reference.network import Array, Batch, Model, loss_and_gradient
from tests.reference.sgd import STEPS, Convention, decay

MomentumLife: TypeAlias = Literal["client", "slot", "cycle", "round"]
"""Where momentum is set to zero.

- ``client``: when a client is newly drawn; one that stays in the next cohort keeps its momentum.
- ``slot``: never; it stays in the cohort's slot and passes to the next client there (the authors' program).
- ``cycle``: for everyone at the start of each cycle.
- ``round``: for everyone at the start of each round.
"""


@dataclass(frozen=True)
class Federation:
    """The problem and the local solver.

    Attributes:
        initial: u_1, the model all clients start from.
        batches: ``batches[client][round * steps + step]``, wrapping around when the list is shorter; a round in which
            a client is inactive passes over its batches.
        layers: The variable indices of each layer; every variable in exactly one.
        rounds: Number of rounds, each ended by an exchange.
        steps: Local steps in a round: tau' (tau'/phi in the accelerating variant).
        learning_rate: One for all rounds, or one per round.
        momentum: m of the local SGD.
        convention: How momentum and learning rate combine, see ``sgd``.
        weight_decay: Added to the gradient as weight_decay * w.
        decayed: The variables it applies to; None for all.
        sizes: n_i of every client, for p_i = n_i / n over the cohort; None for equal weights.
        cohorts: The clients of each cycle in slot order; None for all clients, always.
        momentum_life: Where momentum is set to zero.
        dtype: The precision of everything but the losses and discrepancies, which are float64.
    """

    initial: Model
    batches: Sequence[Sequence[Batch]]
    layers: Sequence[Sequence[int]]
    rounds: int
    steps: int
    learning_rate: float | Sequence[float]
    momentum: float = 0.0
    convention: Convention = "torch"
    weight_decay: float = 0.0
    decayed: Sequence[int] | None = None
    sizes: Sequence[float] | None = None
    cohorts: Sequence[Sequence[int]] | None = None
    momentum_life: MomentumLife = "client"
    dtype: type[np.floating] = np.float64

    def __post_init__(self) -> None:
        """Refuse a grouping that is not a partition of the variables."""
        if sorted(variable for layer in self.layers for variable in layer) != list(range(len(self.initial))):
            raise ValueError(f"layers must hold every variable 0..{len(self.initial) - 1} once, got {self.layers}")

    def dims(self) -> list[int]:
        """dim(u_l) of every layer."""
        return [sum(self.initial[variable].size for variable in layer) for layer in self.layers]

    def start(self) -> Model:
        """A copy of the initial model in the run's precision."""
        return [variable.astype(self.dtype) for variable in self.initial]

    def cohort(self, cycle: int) -> list[int]:
        """The clients of a cycle, in slot order."""
        return list(range(len(self.batches))) if self.cohorts is None else list(self.cohorts[cycle])

    def proportions(self, cohort: Sequence[int]) -> list[float]:
        """p_i of the cohort's clients; they sum to 1."""
        sizes = [1.0 if self.sizes is None else float(self.sizes[client]) for client in cohort]
        return [size / sum(sizes) for size in sizes]

    def rate(self, round_index: int) -> float:
        """The learning rate of a round."""
        if isinstance(self.learning_rate, (int, float)):
            return float(self.learning_rate)
        return float(self.learning_rate[round_index])


@dataclass
class Slot:
    """A place in the cohort: the client that holds it, its local model x^i and its momentum."""

    client: int
    model: Model
    momentum: Model


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round.

    Attributes:
        cohort: The active clients, in slot order.
        losses: Mean cross-entropy of each slot's local steps (without weight decay), each before its step.
        travelled: Per layer, whether it was synchronised at the end of the round (FedLUAR: sent by the clients).
        d: Per layer, the unit discrepancy of its latest synchronisation (eq. 2), 0 before the first.
        in_force: Per layer, the interval in rounds that governed this round.
        adjusted: Per layer, the interval after this round's adjustment, if there was one.
        clients: Each slot's whole local model after the round.
        server: The global model after the round: of each layer, its latest synchronised value.
        counts: Per layer, kappa_l: the number of synchronisations so far.
    """

    cohort: list[int]
    losses: list[float]
    travelled: list[bool]
    d: list[float]
    in_force: list[int]
    adjusted: list[int]
    clients: list[Model]
    server: Model
    counts: list[int]


@dataclass(frozen=True)
class Trace:
    """A whole training: its rounds and what it cost."""

    dims: list[int]
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def counts(self) -> list[int]:
        """kappa_l at the end."""
        return self.rounds[-1].counts

    @property
    def cost(self) -> int:
        """C = sum_l dim(u_l) * kappa_l (eq. 9), in parameters."""
        return sum(dim * count for dim, count in zip(self.dims, self.counts, strict=True))

    def relative_cost(self, synchronisations: int) -> float:
        """Return C relative to a FedAvg that synchronises the whole model `synchronisations` times."""
        return self.cost / (sum(self.dims) * synchronisations)


def zeros(model: Model) -> Model:
    """Zero momentum for a model."""
    return [np.zeros_like(variable) for variable in model]


def seat_cohort(federation: Federation, before: Sequence[Slot], cohort: Sequence[int], server: Model) -> list[Slot]:
    """Start a cycle: every client of the cohort takes the complete global model; momentum as ``momentum_life`` says."""
    old = {slot.client: slot.momentum for slot in before}
    slots: list[Slot] = []
    for place, client in enumerate(cohort):
        momentum = zeros(server)
        if federation.momentum_life == "slot" and place < len(before):
            momentum = before[place].momentum
        elif federation.momentum_life in ("client", "round"):
            momentum = old.get(client, momentum)
        slots.append(Slot(client, list(server), momentum))
    return slots


def train_locally(federation: Federation, slot: Slot, round_index: int) -> float:
    """Algorithm 1, line 3, for the steps of one round: x^i <- x^i - eta grad f(x^i), with momentum; the mean loss."""
    if federation.momentum_life == "round":
        slot.momentum = zeros(slot.model)
    step_rule, rate = STEPS[federation.convention], federation.rate(round_index)
    batches = federation.batches[slot.client]
    losses: list[float] = []
    for step in range(federation.steps):
        inputs, labels = batches[(round_index * federation.steps + step) % len(batches)]
        loss, gradient = loss_and_gradient(slot.model, (inputs.astype(federation.dtype), labels))
        gradient = decay(gradient, slot.model, federation.weight_decay, federation.decayed)
        slot.model, slot.momentum = step_rule(slot.model, slot.momentum, gradient, rate, federation.momentum)
        losses.append(loss)
    return sum(losses) / len(losses)


def weighted_mean(values: Sequence[Array], proportions: Sequence[float]) -> Array:
    """sum_i p_i x^i, summed in slot order."""
    total = proportions[0] * values[0]
    for proportion, value in zip(proportions[1:], values[1:], strict=True):
        total = total + proportion * value
    return total


def discrepancy(values: Sequence[Array], mean: Array, proportions: Sequence[float]) -> float:
    """sum_i p_i ||u - x^i||^2, accumulated in float64."""
    return sum(
        proportion * float(np.sum(np.square(mean - value), dtype=np.float64))
        for proportion, value in zip(proportions, values, strict=True)
    )


def synchronise(slots: Sequence[Slot], proportions: Sequence[float], layer: Sequence[int], server: Model) -> float:
    """Algorithm 1, lines 6 and 7: average one layer, hand it to everyone, return sum_i p_i ||u_l - x_l^i||^2.

    The discrepancy is measured against the local values before they are overwritten.
    """
    total = 0.0
    for variable in layer:
        values = [slot.model[variable] for slot in slots]
        mean = weighted_mean(values, proportions)
        total += discrepancy(values, mean, proportions)
        server[variable] = mean
        for slot in slots:
            slot.model[variable] = mean
    return total


def consolidated(clients: Sequence[Model], proportions: Sequence[float]) -> Model:
    """The weighted mean of every variable: the model to evaluate between two full synchronisations."""
    return [weighted_mean(list(values), proportions) for values in zip(*clients, strict=True)]
