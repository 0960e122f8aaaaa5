"""The reference engine: one client after another in plain PyTorch, meant to be read.

Every client owns its tensors; to train a client, the one shared model is pointed at them, so nothing is copied and the
optimiser works in place. Sums run in client order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlama.choices.solvers import OptimizerState
from fedlama.core.layers import Layer
from fedlama.core.randomness import seed_of
from fedlama.core.registry import register
from fedlama.engines.api import Average, CohortState, EngineSetup, Values
from fedlama.errors import DivergenceError


@dataclass
class _Seat:
    """One place in the cohort: who sits there, its local model and its solver's buffers."""

    client: int
    values: Values
    optimizer_state: OptimizerState


@register("engine", "loop")
class LoopEngine:
    """Trains the cohort's clients one after another.

    Args:
        setup: The federation's fixed parts.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._model = setup.model.to(setup.device).train()
        self._slots = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._names = [name for name, p in self._model.named_parameters() if p.requires_grad]
        self._buffers = [name for name, _ in self._model.named_buffers()]
        travelling = {spec.name for layer in setup.layers for spec in layer.tensors}
        self._local = {name: self._slots[name].clone() for name in self._buffers if name not in travelling}
        self._decayed = _decayed(setup)
        self._generators = [setup.device] if setup.device.type == "cuda" else []
        self._seats: list[_Seat] = []
        self._steps_done: dict[int, int] = {}

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model."""
        before = self._seats if self._setup.solver.state_scope == "slot" else []
        self._seats = []
        for slot, client in enumerate(clients):
            # What never travels (buffers under the "local" rule) and momentum stay in the slot, or begin afresh.
            heir = before[slot] if slot < len(before) else None
            local = {name: heir.values[name] if heir else value.clone() for name, value in self._local.items()}
            own = local | {name: value.detach().clone().to(self._setup.device) for name, value in values.items()}
            self._seats.append(_Seat(client, own, heir.optimizer_state if heir else self._fresh_optimizer_state(own)))

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Advance every client by `steps` local steps, one client after another."""
        fixed = {spec.name for layer in self._setup.layers if layer.name in frozen for spec in layer.tensors}
        trained = [index for index, name in enumerate(self._names) if name not in fixed]
        with torch.random.fork_rng(devices=self._generators):  # dropout draws from the global generator
            return [self._train_client(seat, round_index, steps, trained, reference) for seat in self._seats]

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the cohort, in client order."""
        codec = self._setup.codec
        means: Values = {}
        discrepancy = 0.0
        for spec in layer.tensors:
            received = [codec.transmit(seat.values[spec.name].unsqueeze(0))[0] for seat in self._seats]
            mean = weighted_mean(received, weights)
            means[spec.name] = mean
            if spec.trainable:
                discrepancy += sum(
                    weight * squared_norm(value - mean) for weight, value in zip(weights, received, strict=True)
                )
        return Average(means, discrepancy)

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""
        for seat in self._seats:
            for spec in layer.tensors:
                seat.values[spec.name].copy_(values[spec.name])

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        seat = next(seat for seat in self._seats if seat.client == client)
        return {name: value.clone() for name, value in seat.values.items()}

    def count(self, clients: Sequence[int], steps: int) -> None:
        """Book local steps that clients made elsewhere, so that their data go on from there."""
        for client in clients:
            self._steps_done[client] = self._steps_done.get(client, 0) + steps

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""
        first = self._seats[0]
        return CohortState(
            clients=tuple(seat.client for seat in self._seats),
            values={name: torch.stack([seat.values[name] for seat in self._seats]) for name in first.values},
            optimizer_state={
                kind: {
                    name: torch.stack([seat.optimizer_state[kind][index] for seat in self._seats])
                    for index, name in enumerate(self._names)
                }
                for kind in first.optimizer_state
            },
            steps_done=dict(self._steps_done),
        )

    def load_state_dict(self, state: CohortState) -> None:
        """Take up a state that an engine of the same federation exported."""
        self._steps_done = dict(state.steps_done)
        self._seats = [
            _Seat(
                client,
                {name: stacked[row].clone() for name, stacked in state.values.items()},
                {
                    kind: [named[name][row].clone() for name in self._names]
                    for kind, named in state.optimizer_state.items()
                },
            )
            for row, client in enumerate(state.clients)
        ]

    def _train_client(
        self, seat: _Seat, round_index: int, steps: int, trained: list[int], reference: Mapping[str, Tensor]
    ) -> float:
        setup, solver = self._setup, self._setup.solver
        self._point_model_at(seat.values)
        if solver.state_scope == "round":
            seat.optimizer_state = self._fresh_optimizer_state(seat.values)
        torch.manual_seed(seed_of(setup.seed, "client", round_index, seat.client))
        parameters = [seat.values[self._names[index]] for index in trained]
        watched = [self._slots[self._names[index]] for index in trained]
        optimizer_state = {
            kind: [buffers[index] for index in trained] for kind, buffers in seat.optimizer_state.items()
        }
        decayed = [self._decayed[index] for index in trained]
        pulls = [reference[self._names[index]] for index in trained] if solver.uses_reference else []
        done = self._steps_done.get(seat.client, 0)
        total = 0.0
        for step in range(steps):
            x, y = setup.clients.batch(seat.client, done + step, setup.seed)
            loss = setup.objective(self._model(x.to(setup.device)), y.to(setup.device))
            gradients = torch.autograd.grad(loss, watched, materialize_grads=True)
            solver.step(parameters, gradients, optimizer_state, solver.rate(round_index * steps + step), decayed, pulls)
            total += self._finite(float(loss.detach()), seat, round_index)
        self._steps_done[seat.client] = done + steps
        keep_reassigned_buffers(self._model, self._slots, self._buffers, seat.values)
        return total / steps

    def _point_model_at(self, values: Values) -> None:
        """Let the shared model compute with a client's own tensors, without copying them."""
        for name, slot in self._slots.items():
            if name in values:
                slot.data = values[name]

    def _fresh_optimizer_state(self, values: Values) -> OptimizerState:
        return self._setup.solver.init([values[name] for name in self._names])

    def _finite(self, loss: float, seat: _Seat, round_index: int) -> float:
        if loss - loss == 0.0:
            return loss
        for layer in self._setup.layers:
            for spec in layer.tensors:
                if not torch.isfinite(seat.values[spec.name]).all():
                    raise DivergenceError(round_index, seat.client, layer.name, f"{spec.name} is not finite")
        raise DivergenceError(round_index, seat.client, self._setup.layers[-1].name, f"the loss is {loss}")


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i p_i x_i, added up in order; whole numbers are averaged in float64 and rounded.

    Args:
        values: One tensor per client.
        weights: p_i, summing to 1.
    """
    exact = values[0].is_floating_point()
    total = torch.zeros_like(values[0], dtype=values[0].dtype if exact else torch.float64)
    for value, weight in zip(values, weights, strict=True):
        total.add_(value if exact else value.double(), alpha=weight)
    return total if exact else total.round().to(values[0].dtype)


def squared_norm(value: Tensor) -> float:
    """Return ||x||^2, squared in the tensor's dtype and added up in float64."""
    return float((value * value).sum(dtype=torch.float64))


def _decayed(setup: EngineSetup) -> list[bool]:
    normal = {spec.name for layer in setup.layers for spec in layer.tensors if spec.normalisation}
    return [name not in normal for name, p in setup.model.named_parameters() if p.requires_grad]


def keep_reassigned_buffers(
    model: nn.Module, slots: Mapping[str, Tensor], names: Iterable[str], values: Mapping[str, Tensor]
) -> None:
    """Copy back buffers that a module replaced instead of updating in place, and put the old ones back.

    Args:
        model: The module that has just run.
        slots: The tensors that belong in it, by name.
        names: Its buffers.
        values: The client's own tensors, overwritten where a buffer was replaced.
    """
    for name in names:
        module, _, short = name.rpartition(".")
        owner = model.get_submodule(module)
        current = owner.get_buffer(short)
        if current is not slots[name]:
            values[name].copy_(current)
            setattr(owner, short, slots[name])
