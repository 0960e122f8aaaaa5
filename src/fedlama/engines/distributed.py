"""Split a cohort over the processes of ``torch.distributed``.

Every process runs the same program with the same seeds, as under ``torchrun``; each holds its part of the cohort in an
inner engine. A synchronisation is one all-reduce of the weighted sums of a layer and one of its discrepancy. Models are
not exchanged otherwise, and every process computes the server's part with the same result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, distributed

from fedlama.core.averaging import EXACT_IN_FLOAT64, as_dtype, difference
from fedlama.core.layers import Layer
from fedlama.core.registry import register
from fedlama.engines.api import (
    Average,
    CohortState,
    Engine,
    EngineSetup,
    LocalEngine,
    RoundOrder,
    RoundReply,
    Values,
    sent_bytes_of,
)
from fedlama.engines.options import Stacked
from fedlama.engines.transfers import TransferTable
from fedlama.errors import ConfigError, DivergenceError


class DistributedEngine:
    """One process's part of the cohort.

    Args:
        setup: The federation's fixed parts.
        inner: Holds this process's clients.

    Raises:
        ConfigError: The solver's buffers or local layers would have to follow clients from one process to another.
    """

    holds_clients: ClassVar[bool] = False
    ends_rounds: ClassVar[bool] = True
    why_not_personal: ClassVar[str] = (
        "may train a client in another process in its next cohort, where its head is not, and shows no single models"
    )

    def __init__(self, setup: EngineSetup, inner: LocalEngine) -> None:
        if setup.solver.state_scope == "client":
            raise ConfigError(
                "solver.state_scope is 'client', but a client may train in another process in its next cohort, where "
                "its buffers are not; choose 'cohort', or engine='stacked'"
            )
        if setup.local_layers:
            raise ConfigError(
                f"layer {setup.local_layers[0].name!r} is tagged 'local', but a client may train in another process in "
                "its next cohort, where its values are not; leave it out of layers.local, or choose engine='stacked'"
            )
        self._setup, self._inner = setup, inner
        self._transfers = TransferTable(setup.sent_layers, setup.codec)
        self._rank, self._processes = distributed.get_rank(), distributed.get_world_size()
        self._clients: tuple[int, ...] = ()
        self._global: Mapping[str, Tensor] = {}

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; this process holds a run of neighbouring clients of it.

        Raises:
            ConfigError: There are fewer clients than processes.
        """
        self._split(clients)
        self._inner.start_cohort(self._clients[self._rows(self._rank)], values)

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Train this process's clients and exchange losses; a divergence in one process is raised in all of them."""
        if order.new_cohort:
            self._split(order.cohort)
        self._global = order.values
        rows = self._rows(self._rank)
        losses: dict[int, float] = {}
        for outcome in self._gathered(replace(order, cohort=self._clients[rows])):
            if isinstance(outcome, tuple):
                raise DivergenceError(order.plan.round_index, *outcome)
            losses |= outcome
        for steps, clients in order.by_steps(self._clients[: rows.start] + self._clients[rows.stop :]):
            self._inner.count_steps(clients, steps)
        return RoundReply(losses, self._transfers.planned(order))

    def _gathered(self, order: RoundOrder) -> list[dict[int, float] | tuple[int, str, str]]:
        """Run this process's part of a round, and return what each process found: its losses, or its divergence."""
        outcome: dict[int, float] | tuple[int, str, str]
        try:
            outcome = dict(self._inner.run_round(order).losses)
        except DivergenceError as error:
            outcome = (error.client, error.layer, error.detail)
        outcomes: list[dict[int, float] | tuple[int, str, str]] = [{} for _ in range(self._processes)]
        distributed.all_gather_object(outcomes, outcome)
        return outcomes

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over all processes.

        With P_r the weight of process r, u_r its own mean and D_r its own discrepancy, u = sum_r P_r u_r, and the
        discrepancy is sum_r D_r + P_r ||u_r - u||^2. That needs no second pass and does not cancel, unlike a
        difference of squares.
        """
        part = weights[self._rows(self._rank)]
        total = sum(part)  # P_r
        inner = self._inner.average(layer, [weight / total for weight in part] if total else part)
        before = {spec.name: self._global[spec.name] for spec in layer.tensors}
        parts = {name: _as_reals(inner.values[name], before[name]) for name in before}
        flat = torch.cat(list(parts.values())) * total
        distributed.all_reduce(flat)
        means: Values = {}
        discrepancy = torch.tensor(inner.discrepancy * total, dtype=torch.float64, device=flat.device)
        tensors = torch.split(flat, [len(part) for part in parts.values()])
        for spec, mean in zip(layer.tensors, tensors, strict=True):
            means[spec.name] = _from_reals(mean, before[spec.name])
            if spec.trainable:
                discrepancy += total * difference(parts[spec.name], mean).square().sum()
        distributed.all_reduce(discrepancy)
        return Average(means, float(discrepancy))

    def received(self, layer: Layer) -> Values:
        """Refuse: the models of other processes are not here.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"layer {layer.name!r} is spread over several processes; choose the aggregator 'mean'")

    def sent_bytes(self) -> dict[tuple[str, int], int]:
        """Return what each layer took in each client's upload, by layer and client; all processes must call."""
        parts: list[Mapping[tuple[str, int], int]] = [{}] * self._processes
        distributed.all_gather_object(parts, sent_bytes_of(self._inner))
        return {key: length for part in parts for key, length in part.items()}

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client of this process; the others do the same."""
        self._inner.overwrite(layer, values)

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model, sent by the process that holds it; all processes must call."""
        position = self._clients.index(client)
        owner = next(rank for rank in range(self._processes) if position < self._rows(rank).stop)
        held: list[Values | None] = [self._inner.client_values(client) if owner == self._rank else None]
        distributed.broadcast_object_list(held, src=owner)
        if held[0] is None:
            raise ConfigError(
                f"the processes disagree about which of them holds client {client}; start all with the same settings"
            )
        return {name: value.to(self._setup.device) for name, value in held[0].items()}

    def state_dict(self) -> CohortState:
        """Return a copy of the whole cohort's state, gathered from all processes; all processes must call."""
        parts: list[CohortState] = [self._inner.state_dict()] * self._processes
        distributed.all_gather_object(parts, parts[0])
        first = parts[0]
        values = {name: torch.cat([part.values[name].cpu() for part in parts]) for name in first.values}
        optimizer_state = {
            kind: {name: torch.cat([part.optimizer_state[kind][name].cpu() for part in parts]) for name in named}
            for kind, named in first.optimizer_state.items()
        }
        codec_state = {
            kind: {name: torch.cat([part.codec_state[kind][name].cpu() for part in parts]) for name in named}
            for kind, named in first.codec_state.items()
        }
        return CohortState(self._clients, values, optimizer_state, first.steps_done, codec_state=codec_state)

    def load_state_dict(self, state: CohortState) -> None:
        """Load this process's part of a state that an engine of the same federation returned."""
        self._clients = state.clients
        rows = self._rows(self._rank)
        values = {name: value[rows] for name, value in state.values.items()}
        optimizer_state = {
            kind: {name: buffer[rows] for name, buffer in named.items()}
            for kind, named in state.optimizer_state.items()
        }
        codec_state = {
            kind: {name: value[rows] for name, value in named.items()} for kind, named in state.codec_state.items()
        }
        part = CohortState(state.clients[rows], values, optimizer_state, state.steps_done, codec_state=codec_state)
        self._inner.load_state_dict(part)

    def _split(self, clients: Sequence[int]) -> None:
        if len(clients) < self._processes:
            raise ConfigError(
                f"a cohort of {len(clients)} cannot be split over {self._processes} processes; start fewer processes"
            )
        self._clients = tuple(clients)

    def _rows(self, rank: int) -> slice:
        """Return the rows of the cohort that a process holds."""
        count = len(self._clients)
        return slice(count * rank // self._processes, count * (rank + 1) // self._processes)


def _as_reals(value: Tensor, previous: Tensor) -> Tensor:
    """Return a tensor as a flat float64 vector, which sums over processes add up.

    Complex numbers become pairs, and integers that float64 does not hold become differences from `previous`, which is
    the same in all processes.
    """
    if value.is_complex():
        return torch.view_as_real(value).double().reshape(-1)
    return (value - previous if _is_large_integer(previous) else value).double().reshape(-1)


def _from_reals(flat: Tensor, previous: Tensor) -> Tensor:
    """Undo :func:`_as_reals` for an averaged vector; `previous` also gives the shape and the dtype."""
    if previous.is_complex():
        return torch.view_as_complex(flat.view(*previous.shape, 2)).to(previous.dtype)
    mean = as_dtype(flat, previous.dtype).view(previous.shape)
    return previous + mean if _is_large_integer(previous) else mean


def _is_large_integer(value: Tensor) -> bool:
    """Return whether a tensor holds integers near or beyond the largest that float64 holds exactly."""
    integer = not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
    return integer and bool((value.double().abs() > EXACT_IN_FLOAT64 / 2).any())


@register("engine", "distributed")
@dataclass(frozen=True)
class Distributed:
    """Splits the cohort over the processes that torchrun starts.

    Calling the options with a federation's setup builds this process's part. Start the program with
    ``torchrun --nproc-per-node=2 program.py`` and give ``engine=Distributed()``.

    Args:
        engine: Makes the engine that holds each process's clients.
        backend: Of ``torch.distributed``; by default ``"nccl"`` on CUDA and ``"gloo"`` elsewhere. A process group
            that exists already is used as it is.
    """

    engine: Callable[[EngineSetup], LocalEngine] = field(default_factory=Stacked)
    backend: str | None = None

    def __call__(self, setup: EngineSetup) -> Engine:
        """Join the process group and build the engine.

        Raises:
            ConfigError: The process was not started by a launcher.
        """
        if not distributed.is_initialized():
            if "RANK" not in os.environ:
                raise ConfigError(
                    "engine='distributed' needs several processes; start the program with "
                    "torchrun --nproc-per-node=N, or choose another engine"
                )
            distributed.init_process_group(self.backend or ("nccl" if setup.device.type == "cuda" else "gloo"))
        return DistributedEngine(setup, self.engine(setup))
