"""The engine that keeps the cohort stacked, one tensor for all clients, and advances many clients in one call.

State, synchronisation and data serve all clients at once. Trainers (:mod:`fedlama.engines.trainers.base`) advance
slices of the cohort, in one thread or several. The results are those of the loop engine to float tolerance; which
client is in which slice changes nothing but the order in which a matrix product adds.

:mod:`fedlama.engines.options` chooses a trainer and builds the engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.personal import OWN_SHARE
from fedlama.core.devices import upload
from fedlama.core.layers import Layer
from fedlama.core.scores import Score
from fedlama.data.clients import tensor_clients
from fedlama.engines.api import Average, CohortState, EngineSetup, RoundOrder, RoundReply, Values
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.cohort import Cohort, CohortSlice
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.contributions import Contributions
from fedlama.engines.factors import FactorPass
from fedlama.engines.first_step.guard import MOST_CLIENTS, check_first_step
from fedlama.engines.gradient_pass import GradientPass, gradient_kind
from fedlama.engines.personal import PersonalPhase
from fedlama.engines.phases import train_in_phases
from fedlama.engines.trainers.base import ALL_ROWS, LocalSteps, RoundSteps, Trainer
from fedlama.engines.transfers import TransferTable
from fedlama.engines.user_code import explained
from fedlama.errors import ConfigError, DivergenceError, FedlamaError

_MULTIPLY_ADDS_PER_THREAD = 1 << 26
"""Work that keeps a thread busy for longer than it waits for Python's lock."""


class StackedEngine:
    """Holds the cohort as stacked tensors.

    Args:
        setup: The federation's fixed parts.
        trainers: One per thread, all alike.
        cohort: The state, without clients yet.
        chunk: Clients that a trainer advances at a time, at most; None for what the trainer says.
        plain: Makes the trainers, one per thread, that take over if the first step of the others is not that of plain
            PyTorch, or if the model does not suit them; None to compare nothing.

    Attributes:
        label: The trainer, how it computes, and how many clients it advances at a time, in words.
    """

    holds_clients: ClassVar[bool] = True
    ends_rounds: ClassVar[bool] = True
    personalises: ClassVar[bool] = True
    factors: ClassVar[bool] = True

    def __init__(
        self,
        setup: EngineSetup,
        trainers: Sequence[Trainer],
        cohort: Cohort,
        chunk: int | None = None,
        plain: Callable[[], Sequence[Trainer]] | None = None,
    ) -> None:
        self._setup = setup
        self._transfers = TransferTable(setup.sent_layers, setup.codec)
        self._round_steps = RoundSteps(setup, cohort.names)
        self._contributions = Contributions.of(setup)
        kind = gradient_kind(setup.solver)
        self._gradient_pass = None if kind is None else GradientPass(setup, kind)
        self._personal, self._factors = PersonalPhase.of(setup), FactorPass.of(setup)
        self._trainers = trainers
        self._cohort = cohort
        self._chunk = chunk or trainers[0].rows_per_call or ALL_ROWS
        self._plain = plain
        self._first_step_checked = plain is None
        self._threads = WorkerThreads(len(trainers))
        self._one_thread = WorkerThreads(1)
        self._all_cores = WorkerThreads(cores())  # for synchronisation, however many threads train
        self.label = label_of(trainers[0], len(trainers), chunk)

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model."""
        self._cohort.start_cohort(clients, values)

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Advance every client by the order's local steps, in slices of neighbouring rows; all clients answer."""
        if order.new_cohort:
            self.start_cohort(order.cohort, order.values)
        self._cohort.uploads.begin(order)
        if self._setup.solver.state_scope == "round":
            self._cohort.reset_optimizer_state()
        work = self._round_steps(order)
        fresh = self._cohort.flush(caller_starts=work.trained if self._trainers[0].starts_fresh else ())
        rows = self._cohort.view(fresh)
        if not self._first_step_checked:
            rows = self._check_first_step(rows, order)
        scores: dict[int, Score] = {}
        try:
            if self._personal is not None:
                scores = self._personalise(rows, work, order, self._personal)
            if self._gradient_pass is not None:
                self._add_gradients(rows, work, self._gradient_pass)
            losses = self._train_round(rows, work, order.steps_of_all(rows.clients))
        except FedlamaError:
            raise
        except Exception as error:  # of the user's model, objective or data
            raise explained(self._setup, rows.clients, rows.steps_done, work.steps, error) from error
        if work.update.ends_rounds:
            self._end_round(work)
        if self._factors is not None:
            self._add_factors(self._factors, order.plan.round_index)
        if self._contributions is not None:
            self._contributions.limit(self._cohort.view().values, order.values)
        for steps, clients in order.by_steps(self._cohort.clients):
            self._cohort.count(clients, steps)
        return RoundReply(dict(zip(self._cohort.clients, losses, strict=True)), self._transfers.planned(order), scores)

    def _check_first_step(self, rows: CohortSlice, order: RoundOrder) -> CohortSlice:
        """Compare a first step with plain PyTorch, and go on plainly if it differs or does not suit the model.

        Returns:
            All rows, as the trainers take them now.

        Raises:
            ConfigError: The model, the loss or the solver remembers something, or no way of this engine agrees.
        """
        assert self._plain is not None
        setup, names, name = self._setup, self._cohort.names, self._trainers[0].name
        few, compared = slice(0, min(MOST_CLIENTS, self._chunk)), self._trainers[0].rehearsed()
        fault = check_first_step(setup, rows.part(few), order, names, compared)
        self._first_step_checked = True
        if fault is None and compared.serves():
            return rows
        if rows.fresh:  # the plain trainers expect the buffers that were left for the other ones to start
            self._cohort.reset_optimizer_state()
            self._cohort.flush()
            rows = self._cohort.view()
        plain = self._plain()
        if fault is not None:
            if check_first_step(setup, rows.part(few), order, names, plain[0]) is not None:
                raise ConfigError(f"{name} {fault}; set engine='loop', which computes each client plainly")
            warnings.warn(
                f"{name} {fault}; the run goes on client by client with {plain[0].name}, as engine='loop' computes, "
                "which is slower",
                stacklevel=2,
            )
        self._trainers, self._threads = plain, WorkerThreads(len(plain))
        self._chunk = plain[0].rows_per_call or ALL_ROWS
        self.label = label_of(plain[0], len(plain))
        return rows

    def _add_gradients(self, rows: CohortSlice, work: LocalSteps, gradient_pass: GradientPass) -> None:
        """Let every client add up the gradients of all its data, one client after another.

        Args:
            rows: All clients.
            work: The round's local steps.
            gradient_pass: Makes the steps.
        """
        for buffer in rows.optimizer_state[gradient_pass.kind]:
            buffer.zero_()
        parameters = {name for name, _ in self._setup.model.named_parameters()}
        kept = {name: value.clone() for name, value in rows.values.items() if name not in parameters}
        for row, client in enumerate(rows.clients):
            alone = replace(rows.part(slice(row, row + 1)), steps_done=(0,))
            self._train(alone, gradient_pass.steps(client, work))
        for name, value in kept.items():
            rows.values[name].copy_(value)

    def _add_factors(self, factors: FactorPass, round_index: int) -> None:
        """Let every client compute the factors that it sends, one client after another."""
        clients = self._cohort.clients
        made = [factors.factors(client, self._cohort.client_values(client), round_index) for client in clients]
        self._cohort.add({name: torch.stack([each[name] for each in made]) for name in made[0]})

    def _end_round(self, work: LocalSteps) -> None:
        """Let the solver end the round, for all clients at once."""
        rows = self._cohort.view()
        state = {kind: [buffers[index] for index in work.trained] for kind, buffers in rows.optimizer_state.items()}
        work.update.end_round([rows.values[name] for name in work.names], state, work.reference)

    def _personalise(
        self, rows: CohortSlice, work: LocalSteps, order: RoundOrder, personal: PersonalPhase
    ) -> dict[int, Score]:
        """Blend and train every client's head, and return the scores that are due."""
        values = {**rows.values, OWN_SHARE: self._cohort.stacked(OWN_SHARE)}
        personal.blend(values, order)
        head = personal.work(work)
        counts = [personal.steps(client) for client in rows.clients]
        longest = max(counts)
        if head.names and longest:
            self._train_round(rows, personal.part(head, longest), counts)
        scores: dict[int, Score] = {}
        for row, client in enumerate(rows.clients):
            score = personal.score(client, {name: value[row] for name, value in values.items()}, order.scores_own)
            if score is not None:
                scores[client] = score
        return scores

    def _train_round(self, rows: CohortSlice, work: LocalSteps, counts: Sequence[int]) -> list[float]:
        """Take every client's own number of steps, and return their mean losses."""
        if len(set(counts)) == 1:
            return self._train(rows, work)
        if self._chunk == 1 or self._trainers[0].supports_threads:  # clients do not wait for each other's steps
            return self._train(rows, work, counts)
        return train_in_phases(rows, work, counts, self._chunk, self._train)

    def _train(self, rows: CohortSlice, work: LocalSteps, counts: Sequence[int] | None = None) -> list[float]:
        """Take local steps and return every client's mean loss.

        Args:
            rows: The clients.
            work: Their steps.
            counts: Each client's number of steps, to train every client by itself; None for all of them.
        """
        count, first = len(rows.clients), self._trainers[0]
        if counts is None and first.supports_threads and count <= self._chunk:
            return first.run(rows, work, self._threads)
        if counts is None:
            threads = 1 if first.cut_by_rows else min(len(self._trainers), self._useful_threads(count, work))
            slices = _split(count, threads, self._chunk)
            parts = [work] * len(slices)
        else:
            slices = [slice(row, row + 1) for row in range(count)]
            parts = [work.part(0, steps) for steps in counts]
        waiting = iter(range(len(slices)))  # a thread that is free takes the next slice
        losses: dict[int, list[float]] = {}
        errors: dict[int, DivergenceError] = {}

        def train_slices(worker: int) -> None:
            for index in waiting:
                try:
                    losses[index] = self._trainers[worker].run(rows.part(slices[index]), parts[index], self._one_thread)
                except DivergenceError as error:
                    errors[index] = error
                if errors:
                    return

        self._threads.map(train_slices, range(min(len(self._trainers), len(slices))))
        if errors:  # slices are taken in their order, so the first that diverges is always among these
            raise errors[min(errors)]
        return [loss for index in range(len(slices)) for loss in losses[index]]

    def _useful_threads(self, count: int, work: LocalSteps) -> int:
        """Return how many threads the local steps of `count` clients keep busy."""
        per_sample = self._trainers[0].multiply_adds_per_sample
        if per_sample is None:
            return count
        clients = tensor_clients(self._setup.clients)
        batch = 1 if clients is None else max(clients.batch_sizes)
        return max(count * work.steps * batch * per_sample // _MULTIPLY_ADDS_PER_THREAD, 1)

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the cohort, in one pass over its stacked tensors.

        On a device other than the CPU, the discrepancy is read once for all tensors of the layer.
        """
        return self._average(layer, self._on_device(weights))

    def _on_device(self, weights: Sequence[float]) -> Tensor:
        return upload(torch.from_numpy(np.array(weights, dtype=np.float64)), self._setup.device)

    def _average(self, layer: Layer, weights: Tensor) -> Average:
        means: Values = {}
        total: float | Tensor = 0.0
        for spec in layer.tensors:
            received = self._cohort.received(layer, spec)
            means[spec.name], discrepancy = mean_and_discrepancy(received, weights, spec.trainable, self._all_cores)
            total = total + discrepancy
        return Average(means, float(total))

    def average_layers(self, layers: Sequence[Layer], weights: Sequence[float]) -> Iterator[Average]:
        """Average layers; on CUDA all of them in a few launches, and one look at their discrepancies.

        Args:
            layers: Layers of the round's plan, or of its evaluation.
            weights: As for :meth:`average`.

        Yields:
            The average of each layer.
        """
        together = self._cohort.synchronisation
        if together is not None and layers:
            yield from together.average(layers, self._cohort.received_layers(layers), weights)
            return
        on_device = self._on_device(weights)
        for layer in layers:
            yield self._average(layer, on_device)

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client as the server receives it, (clients, ...) by tensor name."""
        return {spec.name: self._cohort.received(layer, spec) for spec in layer.tensors}

    def sent_bytes(self) -> dict[tuple[str, int], int]:
        """Return what each layer took in each client's upload, by layer and client, where that depends on values."""
        return self._cohort.uploads.sent_bytes()

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""
        heads = () if self._personal is None else self._personal.names
        self._cohort.overwrite({spec.name: values[spec.name] for spec in layer.tensors if spec.name not in heads})

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        return self._cohort.client_values(client)

    def count_steps(self, clients: Sequence[int], steps: int) -> None:
        """Record local steps that clients made elsewhere, so that their data continue from there."""
        self._cohort.count(clients, steps)

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""
        return self._cohort.state_dict()

    def load_state_dict(self, state: CohortState) -> None:
        """Load a state that an engine of the same federation returned."""
        self._cohort.load_state_dict(state)


def label_of(trainer: Trainer, threads: int, chunk: int | None = None) -> str:
    """Name a trainer, say how it computes, and how many clients advance at a time.

    Args:
        trainer: One of the engine's trainers, which are all alike.
        threads: How many there are.
        chunk: Clients that a trainer advances at a time, at most; None for what the trainer says.
    """
    limit = chunk or trainer.rows_per_call
    if limit is None:
        rows = "as many clients at a time as fit the memory"
    elif limit >= ALL_ROWS:
        rows = "all clients at a time"
    elif limit == 1:
        rows = "one client at a time"
    else:
        rows = f"at most {limit} clients at a time"
    return f"{trainer.name} x {threads}, {trainer.description}, {rows}"


def _split(rows: int, workers: int, chunk: int) -> list[slice]:
    """Cut rows into slices of at most `chunk`, evenly, and at least one per worker where there are rows enough.

    >>> _split(5, 2, 3)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    count = min(rows, max(-(-rows // chunk), workers))
    edges = [rows * index // count for index in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]
