"""An engine whose layers an aggregator combines: any engine that shows single clients' models.

One layer of all clients is copied at a time for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.aggregators import Aggregator
from fedlama.choices.availability.rules import rescaled
from fedlama.core.factors import factor_name
from fedlama.core.layers import Layer, Layers
from fedlama.core.validation import refuse
from fedlama.engines.api import Average, CohortState, Engine, RoundOrder, RoundReply, Values
from fedlama.errors import shown


class AggregatedEngine:
    """Drives an inner engine, but combines its clients' values by an aggregator.

    Values that are not finite are refused under every aggregator. When none are left, the discrepancy is NaN, and the
    run stops as it does with the weighted mean.

    Args:
        inner: Holds and trains the clients.
        aggregator: How values are combined.
        factor_layers: The Kronecker factors that clients send beside their layers.
    """

    holds_clients: ClassVar[bool] = True  # whether the inner engine does is asked before it is wrapped

    def __init__(self, inner: Engine, aggregator: Aggregator, factor_layers: Layers = ()) -> None:
        self._factor_layers = {layer.name: layer for layer in factor_layers}
        self._inner, self._aggregator = inner, aggregator
        self._clients: tuple[int, ...] = ()
        self._answered: tuple[int, ...] = ()
        self._global: Mapping[str, Tensor] = {}
        for name in ("own_scores", "score_global", "offer_final", "sent_bytes"):  # which not every engine has
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort."""
        self._clients = tuple(clients)
        self._inner.start_cohort(clients, values)

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Run a round in the inner engine."""
        if order.new_cohort:
            self._clients = order.cohort
        self._global = order.values
        reply = self._inner.run_round(order)
        self._answered = tuple(client for client in self._clients if client in reply.losses)
        return reply

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Combine a layer over the clients that answered, as the server receives it."""
        # Copies, because an aggregator of the user's own might work in place.
        received = {name: value.clone() for name, value in self._received_with_factors(layer).items()}  # (clients, ...)
        # An infinity that the global model has too, such as the -inf of a mask, is usable.
        usable_values = {name: torch.isfinite(value) for name, value in received.items()}
        for name in usable_values.keys() & self._global.keys():
            usable_values[name] |= received[name] == self._global[name]
        if getattr(self._aggregator, "counts_elements", False):  # a user's class may not inherit the default
            for spec in (spec for spec in layer.tensors if spec.trainable):
                usable_values[spec.name] |= torch.isnan(received[spec.name])  # not sent
        finite = [value.reshape(len(value), -1).all(1) for value in usable_values.values()]
        usable = torch.nonzero(torch.stack(finite).all(0)).flatten()  # (tensors, clients) -> rows of the cohort
        if not len(usable):
            return Average({spec.name: self._global[spec.name] for spec in layer.tensors}, float("nan"), self._answered)
        rows: list[int] = usable.tolist()
        if len(rows) < len(self._answered):
            received = {name: value[usable] for name, value in received.items()}
        shares = rescaled(self._clients, weights, {self._answered[row] for row in rows})
        combined = self._aggregator.combine(layer, received, shares, self._global)
        refuse(self._problems(combined, layer))
        kept = {rows[row] for row in range(len(rows)) if row not in combined.refused}
        refused = tuple(client for row, client in enumerate(self._answered) if row not in kept)
        return Average(combined.values, combined.discrepancy, refused)

    def _problems(self, combined: object, layer: Layer) -> list[str]:
        """Return the problems of what an aggregator, maybe of a user's own class, made of a layer."""
        kind, expected = type(self._aggregator).__name__, {spec.name for spec in layer.tensors}
        values = getattr(combined, "values", None)
        if not (isinstance(values, Mapping) and hasattr(combined, "discrepancy") and hasattr(combined, "refused")):
            return [f"{kind}: combine returned {shown(combined)}, expected a fedlama.Combined; return one"]
        if values.keys() != expected:
            return [
                f"{kind}: combine returned the tensors {sorted(values)} of layer {layer.name!r}, expected "
                f"{sorted(expected)}; return these"
            ]
        return [
            f"{kind}: combine returned {tuple(value.shape)} for {name!r}, expected {tuple(self._global[name].shape)}; "
            "return one client's shape"
            for name, value in values.items()
            if value.shape != self._global[name].shape
        ]

    def _received_with_factors(self, layer: Layer) -> Values:
        """Return a layer of every client, and its factors where clients send these."""
        factors = self._factor_layers.get(factor_name(layer.name))
        return self._inner.received(layer) | ({} if factors is None else self._inner.received(factors))

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client as the server receives it."""
        return self._inner.received(layer)

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
        """Load a state that an engine of the same federation returned."""
        self._clients = state.clients
        self._inner.load_state_dict(state)
