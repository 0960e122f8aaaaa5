"""The contract of trainers: what advances some rows of a stacked cohort through the local steps of one round.

The stacked engine knows nothing of a trainer but this contract: a trainer says in its attributes what it is called, how
many clients it takes at a time, and what it can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fedlama.choices.solvers.exchanged import exchanges_of, extra_name, server_value_of
from fedlama.choices.solvers.local_update import LocalUpdate
from fedlama.choices.solvers.options import rates_of
from fedlama.engines.api import EngineSetup, RoundOrder
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.gradients import Precision

ALL_ROWS = 1 << 30
"""A limit of rows that no cohort exceeds."""


@dataclass(frozen=True)
class LocalSteps:
    """The local steps of one round, as many for every client that a trainer is given.

    Where the clients of a cohort take different numbers of steps, the engine makes phases of the round in which all
    clients of a slice take equally many (:mod:`fedlama.engines.phases`).

    Attributes:
        round_index: The round, from 0.
        steps: How many local steps each client takes; of the whole cohort, the most that a client takes.
        trained: Positions in `Cohort.names` of the parameters that are trained.
        names: Their names.
        reference: Their global values, for solvers that use a reference; else empty.
        rates: Learning rate of each local step.
        update: Takes the solver's steps of the trained parameters.
        shared: The server's values of what the solver exchanges beside the model, by name, aligned with `names`.
        generators: Random generators of clients that go on in a later phase of the round; they are made at a client's
            first phase. None where a round has one phase.
    """

    round_index: int
    steps: int
    trained: tuple[int, ...]
    names: tuple[str, ...]
    reference: tuple[Tensor, ...]
    rates: tuple[float, ...]
    update: LocalUpdate
    shared: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    generators: dict[int, torch.Generator] | None = None

    def part(self, first: int, steps: int) -> LocalSteps:
        """Return some of the steps.

        Args:
            first: The first of them.
            steps: How many.
        """
        return replace(self, steps=steps, rates=self.rates[first : first + steps])

    @classmethod
    def of(cls, setup: EngineSetup, names: Sequence[str], order: RoundOrder) -> LocalSteps:
        """Resolve the local steps of one round; for more than one, use :class:`RoundSteps`."""
        return RoundSteps(setup, names)(order)


class RoundSteps:
    """Resolves the local steps of rounds, and remembers what they have in common.

    Args:
        setup: The federation's fixed parts.
        names: All parameters that require a gradient, in the model's order.
    """

    def __init__(self, setup: EngineSetup, names: Sequence[str]) -> None:
        self._setup, self._names = setup, names
        self._known: dict[frozenset[str], tuple[tuple[int, ...], tuple[str, ...], LocalUpdate]] = {}

    def __call__(self, order: RoundOrder) -> LocalSteps:
        """Return the local steps of a round.

        Args:
            order: The round's order.
        """
        plan, solver = order.plan, self._setup.solver
        steps = max((count for count, _ in order.by_steps(order.cohort)), default=order.steps)
        if plan.frozen not in self._known:
            self._known[plan.frozen] = self._trained(plan.frozen)
        trained, names, update = self._known[plan.frozen]
        reference = tuple(order.values[name] for name in names) if solver.uses_reference else ()
        rates = rates_of(solver, plan.round_index * order.steps, steps, plan.round_index, self._setup.budget)
        shared: dict[str, tuple[Tensor, ...]] = {}
        for exchange in exchanges_of(solver):
            kind = exchange.kind
            shared[server_value_of(kind)] = tuple(order.values[extra_name(kind, name)] for name in names)
        if shared:  # they change from round to round
            update = LocalUpdate(solver, self._setup.trained_layers, names, shared, self._names)
        return LocalSteps(plan.round_index, steps, trained, names, reference, rates, update, shared)

    def _trained(self, frozen: frozenset[str]) -> tuple[tuple[int, ...], tuple[str, ...], LocalUpdate]:
        """Return positions and names of what is trained where some layers are frozen, and what takes its steps."""
        setup = self._setup
        fixed = {spec.name for layer in setup.layers if layer.name in frozen for spec in layer.tensors}
        trained = tuple(position for position, name in enumerate(self._names) if name not in fixed)
        names = tuple(self._names[position] for position in trained)
        return trained, names, LocalUpdate(setup.solver, setup.trained_layers, names, None, self._names)


class Trainer(Protocol):
    """Advances the clients of a cohort slice. A trainer is used by one thread at a time.

    Trainers inherit from this class for its defaults.

    Attributes:
        name: What the engine's label calls it.
        description: How it computes, in words, for the same label.
        rows_per_call: Clients that one call is given, at most, unless the user says otherwise; `ALL_ROWS` if there is
            no reason for a limit, None if the trainer finds the limit itself, from the device's memory.
        multiply_adds_per_sample: Multiply-adds of one sample's local step, about; None if unknown.
        starts_fresh: Whether :meth:`run` treats the optimizer state of a slice that is marked `fresh` as fresh,
            whatever the buffers hold. For other trainers it must have been written before.
        supports_threads: Whether :meth:`run` divides its clients over the threads that it is given. Other trainers
            leave the cores to torch's intra-op threads, or are run several at a time.
        cut_by_rows: Whether a cohort is cut into slices of `rows_per_call` whatever the number of threads: the number
            of rows decides the last bits, and must not depend on the machine's cores.
        precision: The numbers that the model computes in.
    """

    name: str
    description: str
    rows_per_call: int | None
    multiply_adds_per_sample: int | None = None
    starts_fresh: bool = False
    supports_threads: bool = False
    cut_by_rows: bool = False
    precision: Precision = "float32"

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round, in place.

        Args:
            rows: The clients to advance, and their state.
            work: The round's local steps.
            threads: Threads to divide the clients over, for trainers that support it.

        Returns:
            Mean training loss per client.

        Raises:
            DivergenceError: A client's loss or parameters are no longer finite.
        """

    def serves(self) -> bool:
        """Return whether the trainer can treat the model in its own way, as far as its steps until now have shown.

        Where it cannot, its steps are right, but the engine goes on with trainers of one client at a time.
        """
        return True

    def rehearsed(self) -> Trainer:
        """Return the trainer whose first step is compared with plain PyTorch: this one, or one that it relies on."""
        return self
