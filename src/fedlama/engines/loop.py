"""The reference engine: one client after another in plain PyTorch, meant to be read.

Every client owns its tensors. To train a client, the one shared model is made to compute with them, so nothing is
copied and the solver works in place. Sums run in client order. All other engines are tested against this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs import CodecState
from fedlama.choices.solvers import OptimizerState
from fedlama.choices.solvers.exchanged import exchanges_of, extra_name
from fedlama.core.averaging import average_models
from fedlama.core.layers import Layer
from fedlama.core.modules import keep_reassigned_buffers, set_training
from fedlama.core.randomness import seed_of
from fedlama.core.registry import register
from fedlama.core.scores import Score
from fedlama.core.trees import Tree, map_leaves
from fedlama.data.clients import as_batch
from fedlama.engines.api import LOCAL_VALUES, Average, CohortState, EngineSetup, RoundOrder, RoundReply, Values
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.kept import dropped_buffers, kept_values, without
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.contributions import Contributions
from fedlama.engines.divergence import loss_divergence
from fedlama.engines.factors import FactorPass
from fedlama.engines.first_step.guard import MOST_CLIENTS, check_first_step
from fedlama.engines.gradient_pass import GradientPass, gradient_kind
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.engines.personal import PersonalPhase
from fedlama.engines.trainers.base import LocalSteps, RoundSteps
from fedlama.engines.transfers import TransferTable
from fedlama.engines.uploads import Uploads, state_of
from fedlama.engines.user_code import NamedFailures, batch_loss

_ONE_THREAD = WorkerThreads(1)


@dataclass
class _ClientSlot:
    """One position in the cohort.

    Attributes:
        client: The client that takes part in this position.
        values: Its local model.
        optimizer_state: Its solver's buffers.
        codec_state: Its codec's states, by tensor.
    """

    client: int
    values: Values
    optimizer_state: OptimizerState
    codec_state: dict[str, CodecState]


@register("engine", "loop")
class LoopEngine:
    """Trains the cohort's clients one after another.

    Args:
        setup: The federation's fixed parts.

    Attributes:
        first_step_checked: Whether the first step has been checked; see :mod:`fedlama.engines.first_step`.
    """

    holds_clients: ClassVar[bool] = True
    ends_rounds: ClassVar[bool] = True
    personalises: ClassVar[bool] = True
    factors: ClassVar[bool] = True

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._transfers, self._uploads = TransferTable(setup.sent_layers, setup.codec), Uploads(setup)
        self._model = set_training(setup.model.to(setup.device))
        self._tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._names = setup.parameter_names
        self._buffers = [name for name, _ in self._model.named_buffers()]
        self._round_steps = RoundSteps(setup, self._names)
        self._local, self._first_kept = dropped_buffers(setup), kept_values(setup)
        self._personal, self._factors = PersonalPhase.of(setup), FactorPass.of(setup)
        self._generators = [setup.device] if setup.device.type == "cuda" else []
        self._kinds = [exchange.kind for exchange in exchanges_of(setup.solver)]
        self._contributions = Contributions.of(setup)
        kind = gradient_kind(setup.solver)
        self._gradient_pass = None if kind is None else GradientPass(setup, kind)
        self._slots: list[_ClientSlot] = []
        self._inactive: dict[int, dict[str, Values]] = {}  # what clients outside of the cohort keep
        self._steps_done: dict[int, int] = {}
        self._fresh_batches = getattr(setup.clients, "fresh_batches", False)
        self.first_step_checked = False

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model."""
        before = self._slots if self._setup.solver.state_scope == "slot" else []
        self._inactive |= {slot.client: kept for slot in self._slots if (kept := self._kept(slot))}
        self._slots = []
        for position, client in enumerate(clients):
            # Buffers that never leave a client, and momentum, either stay in the slot or start fresh.
            old = before[position] if position < len(before) else None
            local = {name: old.values[name] if old else value.clone() for name, value in self._local.items()}
            kept = self._inactive.pop(client, {})
            local |= {name: value.clone() for name, value in kept.get(LOCAL_VALUES, self._first_kept).items()}
            common = without(values, self._first_kept)
            model = local | {name: value.detach().clone().to(self._setup.device) for name, value in common.items()}
            state = old.optimizer_state if old else self._fresh_optimizer_state(model)
            if buffers := {kind: named for kind, named in kept.items() if kind != LOCAL_VALUES}:
                state = self._aligned(buffers)
            self._slots.append(_ClientSlot(client, model, state, self._fresh_codec_state()))

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Train one client after another; all of them answer."""
        if order.new_cohort:
            self.start_cohort(order.cohort, order.values)
        if not self.first_step_checked:
            self._check_first_step(order)
        self._uploads.begin(order)
        work = self._round_steps(order)
        with torch.random.fork_rng(devices=self._generators):  # dropout draws from the global generator
            scores = {} if self._personal is None else self._personalise(work, order, self._personal)
            losses = {slot.client: self._train_client(slot, work, order.steps_of(slot.client)) for slot in self._slots}
        if self._factors is not None:
            for slot in self._slots:
                slot.values |= self._factors.factors(slot.client, slot.values, order.plan.round_index)
        if self._contributions is not None:
            for slot in self._slots:
                stacked = {name: value.unsqueeze(0) for name, value in slot.values.items()}
                self._contributions.limit(stacked, order.values)
        return RoundReply(losses, self._transfers.planned(order), scores)

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the cohort, in client order."""
        return Average(*average_models(layer, [self._uploaded(layer, slot) for slot in self._slots], weights))

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client as the server receives it, (clients, ...) by tensor name."""
        uploads = [self._uploaded(layer, slot) for slot in self._slots]
        return {spec.name: torch.stack([values[spec.name] for values in uploads]) for spec in layer.tensors}

    def sent_bytes(self) -> dict[tuple[str, int], int]:
        """Return what each layer took in each client's upload, by layer and client, where that depends on values."""
        return self._uploads.sent_bytes()

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""
        heads = () if self._personal is None else self._personal.names
        for slot in self._slots:
            for spec in (spec for spec in layer.tensors if spec.name not in heads):
                slot.values[spec.name].copy_(values[spec.name])

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        slot = next(slot for slot in self._slots if slot.client == client)
        return {name: value.clone() for name, value in slot.values.items()}

    def count_steps(self, clients: Sequence[int], steps: int) -> None:
        """Count local steps that clients made elsewhere, so that their data continue from there."""
        for client in clients:
            self._steps_done[client] = self._steps_done.get(client, 0) + steps

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""
        first = self._slots[0]
        return CohortState(
            clients=tuple(slot.client for slot in self._slots),
            values={name: torch.stack([slot.values[name] for slot in self._slots]) for name in first.values},
            optimizer_state={
                kind: {
                    name: torch.stack([slot.optimizer_state[kind][index] for slot in self._slots])
                    for index, name in enumerate(self._names)
                }
                for kind in first.optimizer_state
            },
            steps_done=dict(self._steps_done),
            codec_state={
                kind: {name: torch.stack([slot.codec_state[name][kind] for slot in self._slots]) for name in named}
                for kind, named in self._uploads.first.items()
            },
            inactive=dict(self._inactive),
        )

    def load_state_dict(self, state: CohortState) -> None:
        """Load a state that an engine of the same federation returned."""
        self._steps_done = dict(state.steps_done)
        self._inactive = {client: {k: dict(n) for k, n in kinds.items()} for client, kinds in state.inactive.items()}
        self._slots = [
            _ClientSlot(
                client,
                {name: stacked[row].clone() for name, stacked in state.values.items()},
                {
                    kind: [named[name][row].clone() for name in self._names]
                    for kind, named in state.optimizer_state.items()
                },
                self._fresh_codec_state()
                | {
                    name: {kind: stacked[row] for kind, stacked in state_of(state.codec_state, name).items()}
                    for named in state.codec_state.values()
                    for name in named
                },
            )
            for row, client in enumerate(state.clients)
        ]

    def _check_first_step(self, order: RoundOrder) -> None:
        """Refuse a model, loss or solver that remembers something which the clients would share."""
        setup, slots = self._setup, self._slots[:MOST_CLIENTS]
        if not slots:
            return
        rows = CohortSlice(
            tuple(slot.client for slot in slots),
            {name: torch.stack([slot.values[name] for slot in slots]) for name in slots[0].values},
            {
                kind: [torch.stack([slot.values[extra_name(kind, name)] for slot in slots]) for name in self._names]
                for kind in self._kinds
            },
            tuple(self._steps_done.get(slot.client, 0) for slot in slots),
            fresh=True,
        )
        check_first_step(setup, rows, order, self._names)
        self.first_step_checked = True

    def _uploaded(self, layer: Layer, slot: _ClientSlot) -> Values:
        """Return one client's layer as the server receives it."""
        values: Values = {}
        for spec in layer.tensors:
            before = slot.codec_state.get(spec.name, {})
            state = {kind: value.unsqueeze(0) for kind, value in before.items()}
            tensor = slot.values[spec.name].unsqueeze(0)  # (1, ...)
            arrived = self._uploads.receive(layer, spec, tensor, (slot.client,), state, _ONE_THREAD)
            values[spec.name] = arrived.values[0]
            if arrived.counts:
                slot.codec_state[spec.name] = {kind: value[0] for kind, value in arrived.state.items()}
        return values

    def _fresh_codec_state(self) -> dict[str, CodecState]:
        first = self._uploads.first
        return {name: state_of(first, name) for named in first.values() for name in named}

    def _personalise(self, work: LocalSteps, order: RoundOrder, personal: PersonalPhase) -> dict[int, Score]:
        """Blend and train every client's head, and return the scores that are due."""
        head, scores = personal.work(work), dict[int, Score]()
        for slot in self._slots:
            personal.blend({name: value.unsqueeze(0) for name, value in slot.values.items()}, order)
            steps = personal.steps(slot.client)
            if steps and head.names:
                self._compute_with(slot.values)
                done = self._steps_done.get(slot.client, 0)
                self._take_steps(slot, personal.part(head, steps), done, steps, {})
            score = personal.score(slot.client, slot.values, order.scores_own)
            if score is not None:
                scores[slot.client] = score
        return scores

    def _train_client(self, slot: _ClientSlot, work: LocalSteps, steps: int) -> float:
        """Take one client's local steps, and return the mean of their losses.

        Args:
            slot: The client; its tensors are overwritten.
            work: The round's local steps.
            steps: How many of them this client takes.
        """
        setup = self._setup
        self._compute_with(slot.values)
        if setup.solver.state_scope == "round":
            slot.optimizer_state = self._fresh_optimizer_state(slot.values)
        parameters = [slot.values[name] for name in work.names]
        optimizer_state = {
            kind: [buffers[index] for index in work.trained] for kind, buffers in slot.optimizer_state.items()
        }
        for kind in self._kinds:
            optimizer_state[kind] = [slot.values[extra_name(kind, name)] for name in work.names]
        done = self._steps_done.get(slot.client, 0)
        if self._gradient_pass is not None:
            for buffer in optimizer_state[self._gradient_pass.kind]:
                buffer.zero_()
            kept = {name: slot.values[name].clone() for name in self._buffers if name in slot.values}
            passes = self._gradient_pass.steps(slot.client, work)
            self._take_steps(slot, passes, 0, passes.steps, optimizer_state)
            for name, value in kept.items():
                slot.values[name].copy_(value)
            self._compute_with(slot.values)
        loss = self._take_steps(slot, work, done, steps, optimizer_state)
        if work.update.ends_rounds:
            work.update.end_round_of_one(parameters, optimizer_state, work.reference)
        self._steps_done[slot.client] = done + steps
        return loss

    def _take_steps(
        self, slot: _ClientSlot, work: LocalSteps, done: int, steps: int, optimizer_state: OptimizerState
    ) -> float:
        """Take steps of one client with which the shared model computes, and return the mean of their losses.

        Args:
            slot: The client; its tensors are overwritten.
            work: The steps.
            done: The position in its data of the first one.
            steps: How many.
            optimizer_state: Its buffers of the trained parameters.
        """
        setup, total = self._setup, 0.0
        self._seed_generators(seed_of(setup.seed, "client", work.round_index, slot.client))
        differentiated = [self._tensors[name] for name in work.names]
        parameters = [slot.values[name] for name in work.names]

        def gradients_of(batch: Tree) -> LossAndGradients:
            loss = batch_loss(setup.task, self._model, batch)
            return LossAndGradients(loss, torch.autograd.grad(loss, differentiated, materialize_grads=True))

        for step in range(steps):
            with NamedFailures(slot.client, done + step) as failures:
                batch = failures.batch = setup.clients.batch(slot.client, done + step, setup.seed)
                if not self._fresh_batches:
                    batch = map_leaves(torch.clone, as_batch(batch))
                on_device = map_leaves(self._to_device, batch)
                loss, gradients = accumulated(on_device, setup.micro_batch_size, gradients_of)
            work.update.one(parameters, gradients, optimizer_state, work.rates[step], work.reference)
            total += self._finite(float(loss.detach()), slot, work.round_index)
        keep_reassigned_buffers(self._model, self._tensors, self._buffers, slot.values)
        return total / steps

    def _compute_with(self, values: Values) -> None:
        """Let the shared model compute with a client's own tensors, without copying them."""
        for name, tensor in self._tensors.items():
            if name in values:
                tensor.data = values[name]

    def _to_device(self, leaf: Tensor) -> Tensor:
        return leaf.to(self._setup.device)

    def _seed_generators(self, seed: int) -> None:
        """Seed the generators that dropout draws from."""
        torch.default_generator.manual_seed(seed)
        if self._generators:  # torch.manual_seed would keep a stack trace per call where PyTorch has no CUDA
            torch.cuda.manual_seed(seed)

    def _fresh_optimizer_state(self, values: Values) -> OptimizerState:
        return self._setup.solver.init([values[name] for name in self._names])

    def _kept(self, slot: _ClientSlot) -> dict[str, Values]:
        """Return what a client keeps while it is outside of the cohort."""
        kept = self._named(slot.optimizer_state) if self._setup.solver.state_scope == "client" else {}
        values = {name: slot.values[name] for name in self._first_kept}
        return kept | ({LOCAL_VALUES: values} if values else {})

    def _named(self, optimizer_state: OptimizerState) -> dict[str, Values]:
        """Return one client's buffers by kind and parameter name."""
        return {kind: dict(zip(self._names, buffers, strict=True)) for kind, buffers in optimizer_state.items()}

    def _aligned(self, named: Mapping[str, Values]) -> OptimizerState:
        """Return copies of such buffers, aligned with the parameters."""
        return {kind: [buffers[name].clone() for name in self._names] for kind, buffers in named.items()}

    def _finite(self, loss: float, slot: _ClientSlot, round_index: int) -> float:
        """Return a loss, if it is finite."""
        if math.isfinite(loss):
            return loss
        raise loss_divergence(self._setup.trained_layers, round_index, slot.client, slot.values, loss)
