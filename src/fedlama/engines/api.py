"""The contract of engines: where and how the cohort's work runs.

An engine holds the cohort's local models between rounds. The driver (:mod:`fedlama.federation.federation`) tells it
what to do in terms of layers; strategies, the ledger and the global model are not its business. Global values that it
is given are never changed in place, so it may keep them and copy them when they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Codec
from fedlama.choices.solvers import LocalSolver
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import Transfer
from fedlama.core.losses import Objective
from fedlama.data.clients import ClientSource

Values = dict[str, Tensor]
"""Tensors by their name in the model's state dict."""


@dataclass(frozen=True)
class EngineSetup:
    """All that an engine has to know of a federation.

    Attributes:
        model: A model whose tensors the engine may overwrite at will; it gives the shape of the computation.
        layers: The labelling.
        clients: Everyone's data.
        solver: How a client trains.
        codec: How an upload is compressed.
        objective: The loss.
        seed: The run's seed.
        device: Where to compute.
    """

    model: nn.Module
    layers: Layers
    clients: ClientSource
    solver: LocalSolver
    codec: Codec
    objective: Objective
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Average:
    """One layer's synchronisation, before anything is overwritten.

    Attributes:
        values: u = sum_i p_i x_i for every tensor of the layer.
        discrepancy: sum_i p_i ||u - x_i||^2 over its trainable parameters.
        refused: Clients whose values a guard left out.
    """

    values: Values
    discrepancy: float
    refused: tuple[int, ...] = ()


@dataclass(frozen=True)
class CohortState:
    """All that an engine holds between two rounds, in a form that every engine can take up again.

    Attributes:
        clients: The cohort, in order.
        values: Local models, stacked in that order: (clients, ...) by tensor name.
        optimizer_state: Solver buffers likewise, by kind and parameter name.
        steps_done: Local steps that each client has made since the run began, also of clients no longer active.
        facts: What else an engine must remember, as plain JSON types; most have nothing.
    """

    clients: tuple[int, ...]
    values: Values
    optimizer_state: dict[str, Values]
    steps_done: dict[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Holds and advances the cohort's local models."""

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model."""

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Advance every client by `steps` local steps.

        Args:
            round_index: The round, from 0.
            steps: Local steps.
            frozen: Layers that are not trained.
            reference: The global values, for solvers that look back at them.

        Returns:
            Mean training loss per client, in the cohort's order.

        Raises:
            DivergenceError: A client left the finite numbers.
        """

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the cohort, as the server would receive it; overwrites nothing."""

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""

    def load_state_dict(self, state: CohortState) -> None:
        """Take up a state that an engine of the same federation exported."""


@runtime_checkable
class Splittable(Engine, Protocol):
    """An engine that can hold a part of a cohort."""

    def count(self, clients: Sequence[int], steps: int) -> None:
        """Book local steps that clients made elsewhere, so that their data go on from there."""


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine that needs the plan before the round and reports the traffic after it."""

    def announce(self, plan: Plan, evaluation: frozenset[str], scalars: bool) -> None:
        """Take in the round's plan before :meth:`train`.

        Args:
            plan: The round's plan.
            evaluation: Layers that come up for an evaluation alone.
            scalars: Whether uploads carry ||x_i - r||^2 with each layer.
        """

    def travelled(self, planned: Sequence[Transfer]) -> list[Transfer]:
        """Return what really travelled in the round, given what would have, had every client answered at once."""
