"""What the server remembers of its clients, and the requests of a round that follow from it.

All requests of a round ask for the same work. They differ in the layers that they carry: each client gets those that
it lacks, given the latest round that it answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from fedlama.choices.availability.membership import Membership
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.ledger import Transfer
from fedlama.engines.transfers import DOWNLOAD_CODEC
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
        state: Which rounds each client answered, and when each layer was set last.
        values: The global model.
    """

    def __init__(self, common: TrainRequest, layers: Layers, state: EngineState, values: Mapping[str, Tensor]) -> None:
        self._common, self._layers, self._state, self._values = common, layers, state, values
        self._packed: dict[tuple[int, ...], bytes] = {}

    def request(self, client: int, full: bool) -> TrainRequest:
        """Return a client's request.

        Args:
            client: The client's number.
            full: Whether the request must carry the full model, whatever the client is known to have.
        """
        answered_round = NEVER if full else self._state.answered[client]
        lacking = self._state.lacking((layer.name for layer in self._layers), answered_round)
        return replace(
            self._common,
            client=client,
            answered_round=answered_round,
            steps_done=self._state.steps_done.get(client, 0),
            payload=self._payload(indices(self._layers, lacking)),
        )

    def _payload(self, lacking: tuple[int, ...]) -> bytes:
        if lacking not in self._packed:
            payloads = {index: encode_layer(self._layers[index], self._values, DOWNLOAD_CODEC) for index in lacking}
            self._packed[lacking] = wire.pack(wire.Message(self._common.round_index, EVERYONE, payloads))
        return self._packed[lacking]


def indices(layers: Layers, names: Iterable[str]) -> tuple[int, ...]:
    """Return the indices of some layers in the labelling, in ascending order.

    Args:
        layers: The labelling.
        names: Names of layers.
    """
    wanted = set(names)
    return tuple(index for index, layer in enumerate(layers) if layer.name in wanted)


def downloads(sent: Sequence[TrainRequest], layers: Layers) -> list[Transfer]:
    """Return the transfers to the clients: one for each set of layers, and one more for every time it was repeated.

    Args:
        sent: The requests, in the order of sending.
        layers: The labelling.
    """
    groups: dict[tuple[int, bytes], list[TrainRequest]] = {}
    times: dict[int, int] = {}
    for request in sent:
        times[request.client] = times.get(request.client, 0) + 1
        groups.setdefault((times[request.client], request.payload), []).append(request)
    return [
        Transfer(
            requests[0].round_index,
            "down",
            tuple(sorted(request.client for request in requests)),
            layer_payloads(wire.unpack(payload), layers),
        )
        for (_, payload), requests in groups.items()
    ]
