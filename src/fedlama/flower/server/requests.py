"""A round's orders: what all clients are asked alike, and for each the layers that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedlama.choices.codecs import Float32
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.ledger import LayerPayload, Transfer
from fedlama.flower.payloads import encode_layer
from fedlama.flower.protocol import EVERYONE, NEVER, Order
from fedlama.flower.server.state import EngineMemory

_DOWNLOAD = Float32()


class Orders:
    """Writes the orders of one round; layers are packed once for all clients that lack the same ones.

    Args:
        common: The order, but for what differs by client.
        layers: The labelling.
        optimizer_state: Who has answered what, and when each layer was set last.
        values: The global model.
    """

    def __init__(
        self, common: Order, layers: Layers, optimizer_state: EngineMemory, values: Mapping[str, Tensor]
    ) -> None:
        self._common, self._layers, self._optimizer_state, self._values = common, layers, optimizer_state, values
        self._packed: dict[tuple[int, ...], bytes] = {}

    def of(self, client: int, full: bool) -> Order:
        """Return a client's order.

        Args:
            client: Whose.
            full: Bring the full model, whatever the client is known to have.
        """
        expected = NEVER if full else self._optimizer_state.answered[client]
        lacking = self._optimizer_state.lacking((layer.name for layer in self._layers), expected)
        return replace(
            self._common,
            client=client,
            expected=expected,
            steps_done=self._optimizer_state.steps_done.get(client, 0),
            payload=self._payload(indices(self._layers, lacking)),
        )

    def _payload(self, lacking: tuple[int, ...]) -> bytes:
        if lacking not in self._packed:
            payloads = {index: encode_layer(self._layers[index], self._values, _DOWNLOAD) for index in lacking}
            self._packed[lacking] = wire.pack(wire.Message(self._common.round_index, EVERYONE, payloads))
        return self._packed[lacking]


def indices(layers: Layers, names: Iterable[str]) -> tuple[int, ...]:
    """Return the places of some layers in the labelling, in its order.

    Args:
        layers: The labelling.
        names: Names of layers.
    """
    wanted = set(names)
    return tuple(index for index, layer in enumerate(layers) if layer.name in wanted)


def downloads(sent: Sequence[Order], layers: Layers) -> list[Transfer]:
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
        Transfer(
            orders[0].round_index, "down", tuple(sorted(order.client for order in orders)), _payloads(payload, layers)
        )
        for (_, payload), orders in groups.items()
    ]


def _payloads(payload: bytes, layers: Layers) -> tuple[LayerPayload, ...]:
    sizes = {index: len(data) for index, data in wire.unpack(payload).payloads.items()}
    return tuple(LayerPayload(layers[i].name, layers[i].parameters, size) for i, size in sorted(sizes.items()))
