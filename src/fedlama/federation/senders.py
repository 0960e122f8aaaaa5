"""Which clients upload which layers in a round, where a plan does not ask all of them for all that is due.

A plan's rule (:class:`~fedlama.core.plan.Senders`) decides before the round, and the requests say it. Or it decides by
how far each client moved: all clients train, each reports one distance per layer, the server answers with its choice,
and the chosen layers come up. All of it is in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fedlama.core.averaging import distance
from fedlama.core.layers import named_layers
from fedlama.core.ledger import Transfer
from fedlama.engines.api import Engine, EngineSetup, RoundOrder
from fedlama.engines.transfers import TransferPlanner, TransferTable


class SenderChoice:
    """Decides who uploads what, once the clients have trained.

    Args:
        setup: The parts that the federation shares with the engine.
        planner: Asks the plan's rule.
    """

    def __init__(self, setup: EngineSetup, planner: TransferPlanner) -> None:
        self._layers, self._planner = setup.layers, planner
        self._table = TransferTable(setup.sent_layers, setup.codec)

    def of(
        self, order: RoundOrder, engine: Engine, answered: Sequence[int]
    ) -> tuple[dict[str, frozenset[int]], tuple[Transfer, ...]]:
        """Return the clients that upload a layer, and what moves besides what the engine reported.

        Args:
            order: The round's order.
            engine: Holds the clients' models.
            answered: The clients that answered, in the cohort's order; none in a round that does not count.

        Returns:
            The clients by layer, for the layers that not all upload; and the second exchange, where there is one.
        """
        if order.senders is not None or not answered:
            return {name: clients & set(answered) for name, clients in (order.senders or {}).items()}, ()
        reported: Callable[[], Any] | None = getattr(engine, "distances", None)
        if reported is not None:  # the clients are elsewhere, and the engine carries the second exchange
            asks: Any = engine
            sent: tuple[dict[str, frozenset[int]], tuple[Transfer, ...]] = asks.ask(
                self._planner.chosen(order.plan, answered, reported())
            )
            return sent
        due = [layer for layer in named_layers(self._layers, order.plan.upload) if layer.parameters]
        distances: dict[str, list[float]] = {layer.name: [] for layer in due}
        for client in answered:
            values = engine.client_values(client)
            for layer in due:
                distances[layer.name].append(distance(layer, values, order.values))
        chosen = self._planner.chosen(order.plan, answered, distances)
        return chosen, self._table.asked(replace(order, senders=chosen), answered)
