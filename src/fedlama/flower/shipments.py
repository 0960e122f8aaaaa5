"""What a deployment sent down in a round, as it happened."""

from __future__ import annotations

from collections.abc import Sequence

from fedlama import wire
from fedlama.flower.protocol import Order
from fedlama.layers import Layers
from fedlama.ledger import Cargo, Shipment


def downloads(sent: Sequence[Order], layers: Layers) -> list[Shipment]:
    """Return what went down: one shipment for each set of layers, and another for every time it was sent again.

    Args:
        sent: The orders, in the order of sending.
        layers: The labelling.
    """
    groups: dict[tuple[int, bytes], list[Order]] = {}
    times: dict[int, int] = {}
    for order in sent:
        times[order.client] = times.get(order.client, 0) + 1
        groups.setdefault((times[order.client], order.payload), []).append(order)
    return [
        Shipment(
            orders[0].round_index, "down", tuple(sorted(order.client for order in orders)), _cargo(payload, layers)
        )
        for (_, payload), orders in groups.items()
    ]


def _cargo(payload: bytes, layers: Layers) -> tuple[Cargo, ...]:
    sizes = {index: len(data) for index, data in wire.unpack(payload).payloads.items()}
    return tuple(Cargo(layers[i].name, layers[i].parameters, size) for i, size in sorted(sizes.items()))
