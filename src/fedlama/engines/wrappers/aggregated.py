"""An engine whose averages pass a guard: any engine that can hand over single clients' models.

The clients' models are copied once per round for it, so a guard costs as much memory as the cohort again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedlama.choices.aggregators import Aggregator
from fedlama.choices.availability.rules import rescaled
from fedlama.core.layers import Layer
from fedlama.engines.api import Average, CohortState, Engine, EngineSetup, Values


class AggregatedEngine:
    """Drives an inner engine, but combines what it holds by a guard.

    Values that are not finite are refused whatever the guard; when none are left, the discrepancy is not a number, and
    the driver stops the run as it does without a guard.

    Args:
        setup: The federation's fixed parts.
        inner: Holds and trains the clients.
        aggregator: How values are combined.
    """

    def __init__(self, setup: EngineSetup, inner: Engine, aggregator: Aggregator) -> None:
        self._codec, self._inner, self._aggregator = setup.codec, inner, aggregator
        self._clients: tuple[int, ...] = ()
        self._models: list[Values] = []
        self._global: Mapping[str, Tensor] = {}

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort."""
        self._clients = tuple(clients)
        self._inner.start_cohort(clients, values)

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Advance every client; what was copied of their models before is out of date then."""
        self._models, self._global = [], reference
        return self._inner.train(round_index, steps, frozen, reference)

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Combine a layer over the clients, as the server would receive it."""
        if not self._models:
            self._models = [self._inner.client_values(client) for client in self._clients]
        received = {
            spec.name: self._codec.transmit(torch.stack([model[spec.name] for model in self._models]))
            for spec in layer.tensors
        }
        finite = torch.stack([torch.isfinite(value).reshape(len(value), -1).all(1) for value in received.values()]).all(
            0
        )
        sound = torch.nonzero(finite).flatten()
        if not len(sound):
            return Average({spec.name: self._global[spec.name] for spec in layer.tensors}, float("nan"), self._clients)
        rows: list[int] = sound.tolist()
        if len(rows) < len(self._clients):
            received = {name: value[sound] for name, value in received.items()}
        shares = rescaled(range(len(weights)), weights, set(rows))
        combined = self._aggregator.combine(layer, received, shares, self._global)
        kept = {rows[row] for row in range(len(rows)) if row not in combined.refused}
        refused = tuple(client for row, client in enumerate(self._clients) if row not in kept)
        return Average(combined.values, combined.discrepancy, refused)

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""
        self._inner.overwrite(layer, values)

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        return self._inner.client_values(client)

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state: CohortState) -> None:
        """Take up a state that an engine of the same federation exported."""
        self._clients = state.clients
        self._inner.load_state_dict(state)
