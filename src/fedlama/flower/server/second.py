"""The second exchange of a round in which the server chooses layers by how far the clients moved in them (FedLDF).

The clients have trained and reported. Each is sent its choice, and uploads the layers in it from what it has kept. A
client that does not answer any more is left out of the averages of these layers; it has trained the round all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.ledger import CHOICE, LayerPayload, Transfer
from fedlama.engines.api import RoundOrder
from fedlama.flower.choice import write_choice
from fedlama.flower.protocol import TrainRequest
from fedlama.flower.server.replies import ClientUpdate
from fedlama.flower.server.requests import indices


def chosen_requests(
    common: TrainRequest, order: RoundOrder, layers: Layers, clients: Sequence[int]
) -> dict[int, TrainRequest]:
    """Return the request of each client.

    Args:
        common: A request with all that is the same for every client.
        order: The round's order, with the senders that were chosen.
        layers: The labelling.
        clients: The clients that reported, in the cohort's order.
    """
    requests = {}
    for client in clients:
        bits = write_choice(common.upload, indices(layers, order.layers_of(client)))
        payload = wire.pack(wire.Message(order.plan.round_index, client, {len(layers): bits}))
        requests[client] = replace(
            common,
            client=client,
            answered_round=order.plan.round_index,
            evaluation=(),
            payload=payload,
            score=False,
            stage="chosen",
        )
    return requests


def choices(sent: Sequence[TrainRequest], layers: Layers) -> list[Transfer]:
    """Return the transfers of the choices: one to all clients, and one more for every time it was repeated.

    Args:
        sent: The requests, in the order of sending.
        layers: The labelling.
    """
    rounds: list[list[TrainRequest]] = []
    times: dict[int, int] = {}
    for request in sent:
        time = times[request.client] = times.get(request.client, -1) + 1
        rounds += [[]] * (time == len(rounds))
        rounds[time] = [*rounds[time], request]
    return [
        Transfer(
            requests[0].round_index,
            "down",
            tuple(sorted(request.client for request in requests)),
            (LayerPayload(CHOICE, 0, len(wire.unpack(requests[0].payload).payloads[len(layers)])),),
        )
        for requests in rounds
    ]


def merged(report: ClientUpdate, update: ClientUpdate) -> ClientUpdate:
    """Return what a client sent in both exchanges.

    Args:
        report: The content of its report.
        update: The content of its upload.
    """
    return replace(report, layers={**report.layers, **update.layers}, scalars=update.scalars, upload=update.upload)


def senders_of(
    order: RoundOrder, asked: Collection[int], arrived: Mapping[int, ClientUpdate]
) -> dict[str, frozenset[int]]:
    """Return the clients whose upload of a layer arrived, for the layers that not all who were asked sent.

    Args:
        order: The round's order, with the senders that were chosen.
        asked: The clients that were sent a choice.
        arrived: Client to the content of its upload.
    """
    there = frozenset(arrived)
    missing = there != frozenset(asked)
    names = order.plan.upload if missing else (order.senders or {}).keys()
    return {name: (order.senders or {}).get(name, there) & there for name in names}
