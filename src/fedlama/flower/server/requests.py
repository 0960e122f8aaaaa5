"""What the server remembers of its clients, and the requests of a round that follow from it.

All requests of a round ask for the same work. They differ in the layers that they carry: each client gets those that
it lacks, given the latest round that it answered. A plan may also ask different layers of different clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from fedlama.choices.availability.membership import Membership
from fedlama.choices.codecs import Codec, download_codec, full_codec
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.ledger import Direction, Transfer
from fedlama.engines.api import RoundOrder
from fedlama.flower.payloads import encode_layer, layer_payloads
from fedlama.flower.protocol import EVERYONE, NEVER, TrainRequest


@dataclass(kw_only=True)
class EngineState(Membership):
    """The state of the server's engine between rounds, in a form that a checkpoint can hold.

    Attributes:
        run: The run's random name, by which clients recognise files of this run.
        steps_done: Client to its local steps in rounds that counted.
        absent: Clients that missed the latest round.
    """

    run: str
    steps_done: dict[int, int] = field(default_factory=dict)
    absent: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**super().to_json(), "absent": sorted(self.absent)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Read back what :meth:`to_json` wrote."""
        steps_done = {int(client): steps for client, steps in record["steps_done"].items()}
        return super().from_json({**record, "steps_done": steps_done, "absent": set(record["absent"])})


class RequestWriter:
    """Writes the requests of one round; clients that lack the same layers share one payload.

    Args:
        common: A request with all that is the same for every client.
        layers: The labelling.
        codec: How uploads are compressed; it names the codec of downloads.
        state: Which rounds each client answered, and when each layer was set last.
        order: The round's order, with the global model and its changes.
    """

    def __init__(
        self, common: TrainRequest, layers: Layers, codec: Codec, state: EngineState, order: RoundOrder
    ) -> None:
        self._common, self._layers, self._state, self._order = common, layers, state, order
        self._codes_changes, self._full_codec = download_codec(codec).needs_context, full_codec(codec)
        # Layers without a value on the server, such as Kronecker factors, only come up.
        self._sent_down = [layer.name for layer in layers if all(spec.name in order.values for spec in layer.tensors)]
        self._packed: dict[tuple[tuple[int, ...], bool], bytes] = {}

    def request(self, client: int, full: bool) -> TrainRequest:
        """Return a client's request.

        Args:
            client: The client's number.
            full: Whether the request must carry the full model, whatever the client is known to have.
        """
        answered_round = NEVER if full else self._state.answered[client]
        lacking = self._state.lacking(self._sent_down, answered_round)
        coded = self._codes_changes and not full and self._state.is_in_sync(client, self._common.round_index)
        return replace(
            self._common,
            client=client,
            answered_round=answered_round,
            steps=self._order.steps_of(client),
            steps_done=self._state.steps_done.get(client, 0),
            upload=self._upload(client),
            payload=self._payload(indices(self._layers, lacking), coded),
            coded=coded,
        )

    def _upload(self, client: int) -> tuple[int, ...]:
        """Return the layers that a client uploads, or reports on where that decides who uploads them."""
        order = self._order
        return self._common.upload if order.senders is None else indices(self._layers, order.layers_of(client))

    def _payload(self, lacking: tuple[int, ...], coded: bool) -> bytes:
        if (lacking, coded) not in self._packed:
            payloads = {index: self._written(index, coded) for index in lacking}
            self._packed[lacking, coded] = wire.pack(wire.Message(self._common.round_index, EVERYONE, payloads))
        return self._packed[lacking, coded]

    def _written(self, index: int, coded: bool) -> bytes:
        layer = self._layers[index]
        return self._order.coded[layer.name] if coded else encode_layer(layer, self._order.values, self._full_codec)


def indices(layers: Layers, names: Iterable[str]) -> tuple[int, ...]:
    """Return the indices of some layers in the labelling, in ascending order.

    Args:
        layers: The labelling.
        names: Names of layers.
    """
    wanted = set(names)
    return tuple(index for index, layer in enumerate(layers) if layer.name in wanted)


def downloads(sent: Sequence[TrainRequest], layers: Layers, direction: Direction = "down") -> list[Transfer]:
    """Return the transfers to the clients: one for each set of layers, and one more for every time it was repeated.

    Args:
        sent: The requests, in the order of sending.
        layers: The labelling.
        direction: What the ledger calls them.
    """
    groups: dict[tuple[int, bytes], list[TrainRequest]] = {}
    times: dict[int, int] = {}
    for request in sent:
        times[request.client] = times.get(request.client, 0) + 1
        groups.setdefault((times[request.client], request.payload), []).append(request)
    return [
        Transfer(
            requests[0].round_index,
            direction,
            tuple(sorted(request.client for request in requests)),
            layer_payloads(wire.unpack(payload), layers),
        )
        for (_, payload), requests in groups.items()
    ]
