"""The engine of an app's strategy: Flower's own loop carries the messages, and this engine says what is in them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import ClassVar

from fedlama.choices.codecs import full_codec
from fedlama.core import wire
from fedlama.core.ledger import Transfer
from fedlama.data.clients import Batch
from fedlama.engines.api import EngineSetup, RoundOrder, RoundReply, Values
from fedlama.errors import ConfigError, DataError
from fedlama.flower.payloads import encode_layer
from fedlama.flower.protocol import EVERYONE, NEVER, TrainReply, TrainRequest
from fedlama.flower.server.engine import Flower, FlowerEngine
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.replies import Held, check
from fedlama.flower.server.requests import RequestWriter, downloads, indices
from fedlama.flower.server.round import RoundResult

_LOG = logging.getLogger("fedlama.flower")
_MOST_SAMPLES = 2**53  # weights are computed from them in float64


class AppClients:
    """The clients of an app, of which the server learns the number of samples with their replies.

    Args:
        count: Number of clients.
    """

    def __init__(self, count: int) -> None:
        self.counts: dict[int, int] = {}
        self._count = count

    def __len__(self) -> int:
        """Number of clients."""
        return self._count

    def __describe__(self) -> dict[str, object]:
        """Return what decides a run: nothing but the number of clients."""
        return {}

    def samples(self, client: int) -> int:
        """Return the number of training samples n_i of the latest reply; 1 before the first."""
        return self.counts.get(client, 1)

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Refuse: the data are on the client's machine.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"the data of client {client} are on its own machine; train there")


class AppEngine(FlowerEngine):
    """Writes the requests of a round and checks the replies; waiting for them is left to Flower's loop.

    Args:
        setup: The federation's fixed parts.
        options: The channel, the log and what is known of the clients.
        registry: Which node serves which client.
        clients: Where the numbers of samples are kept.
    """

    holds_clients: ClassVar[bool] = False

    def __init__(self, setup: EngineSetup, options: Flower, registry: NodeRegistry, clients: AppClients) -> None:
        super().__init__(setup, options)
        self.registry, self._clients, self._known = registry, clients, options.known
        self._writer: RequestWriter | None = None
        self._current: Values = {}
        self._asked: list[int] = []
        self._packed: dict[tuple[int, ...], bytes] = {}  # what an evaluation sends, by the layers in it
        self.result = RoundResult()
        self._start = 0.0

    def begin(self, order: RoundOrder) -> list[int]:
        """Begin a round; return the clients that may be asked.

        Args:
            order: The round's order.
        """
        if order.senders is None:
            raise ConfigError(
                "the strategy asks for layers once it knows how far each client moved, but in a round of Flower's own "
                "loop there is one exchange of messages; choose another strategy, such as 'fedlp'"
            )
        self._start, self.result = time.perf_counter(), RoundResult()
        self._asked, self._writer = self.opened(order)
        self._current, self._packed = dict(order.values), {}
        return self._asked

    def request(self, client: int, *, full: bool = False) -> TrainRequest:
        """Return a client's request, which is sent now.

        Args:
            client: The client.
            full: Whether it must carry the full model.
        """
        assert self._writer is not None  # a round has begun
        request = self._writer.request(client, full)
        self.result.sent.append(request)
        return request

    def take(self, client: int, reply: TrainReply | None, samples: object) -> bool:
        """Take a reply in, or note why not.

        Args:
            client: The client whose node replied.
            reply: The reply; None where it holds none.
            samples: The number of samples that came with it.

        Returns:
            Whether it counts.
        """
        requests = [request for request in self.result.sent if request.client == client]
        try:
            if reply is None or not requests or client in self.result.updates:
                raise DataError("it is not a reply to a training request")
            count = _count(samples)
            update = check(
                reply, requests[-1], self._setup.sent_layers, self._setup.codec, Held(self._current, self.sender_states)
            )
        except DataError as error:
            self.note(f"client {client}: reply refused: {error}")
            return False
        self.result.updates[client] = update
        self._clients.counts[client] = self._known.weighed(client, count)
        return True

    def forget(self, client: int) -> None:
        """Note that a client has lost its state, so that its next message carries the full model.

        Args:
            client: The client.
        """
        if client in self.state.answered:
            self.state.answered[client] = NEVER
        self.note(f"client {client} has lost its state and is sent the full model")

    def note(self, incident: str) -> None:
        """Record an incident of the round once, and log it."""
        if incident not in self.result.incidents:
            self.result.incidents.append(incident)
            _LOG.warning(incident)

    def log_scores(self, clients: Sequence[int]) -> None:
        """Write the round's line again, with the clients that have scored the model.

        Args:
            clients: The clients.
        """
        self._line |= {"scored": sorted(clients), "incidents": self.result.incidents}
        self._log()

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Return what came of the requests; clients without an accepted reply are missing."""
        self.result.missing = set(self._asked) - set(self.result.updates)
        # Floating-point sums run in the order of the clients, and not of their replies.
        self.result.updates = dict(sorted(self.result.updates.items()))
        return self.closed(self.result, time.perf_counter() - self._start)

    def evaluation_request(self, client: int, round_index: int, values: Values) -> TrainRequest:
        """Return the message with which a client gets the global model after a round; its state does not change.

        Args:
            client: The client.
            round_index: The round, from 0, that has just ended.
            values: The global values.
        """
        layers, codec = self._setup.sent_layers, full_codec(self._setup.codec)
        held = self.state.answered.get(client, NEVER)
        lacking = indices(layers, self.state.lacking((layer.name for layer in layers), held))
        if lacking not in self._packed:  # clients that lack the same layers share one payload
            payloads = {index: encode_layer(layers[index], values, codec) for index in lacking}
            self._packed[lacking] = wire.pack(wire.Message(round_index, EVERYONE, payloads))
        return TrainRequest(
            self.state.run, self._fingerprint, round_index, client, held, 0, 0, (), (), (), scalars=False,
            payload=self._packed[lacking],
        )  # fmt: skip

    def evaluation_transfers(self, sent: Sequence[TrainRequest]) -> list[Transfer]:
        """Return the transfers of messages for an evaluation.

        Args:
            sent: The messages.
        """
        return downloads(sent, self._setup.sent_layers, "evaluation-down")


class AppEngines:
    """Makes the engine for a federation, and keeps it: a run wraps it where an aggregator asks for that.

    Args:
        options: As for :class:`AppEngine`, like the other arguments.
        registry: Which node serves which client.
        clients: Where the numbers of samples are kept.
    """

    name: ClassVar[str] = "flower"

    def __init__(self, options: Flower, registry: NodeRegistry, clients: AppClients) -> None:
        self._options, self._registry, self._clients = options, registry, clients
        self.made: AppEngine | None = None

    def __call__(self, setup: EngineSetup) -> AppEngine:
        """Return the engine."""
        self.made = AppEngine(setup, self._options, self._registry, self._clients)
        return self.made

    @property
    def engine(self) -> AppEngine:
        """The engine that was made."""
        assert self.made is not None  # a run was made
        return self.made


def _count(samples: object) -> int:
    """Return a number of samples, which a client may give as a float.

    Raises:
        DataError: It is none.
    """
    number = samples if isinstance(samples, int | float) and math.isfinite(samples) else 0
    if not 1 <= number < _MOST_SAMPLES or number != int(number):
        raise DataError(
            f"its number of samples is {samples!r}, expected 1 to 2^53 - 1; correct the ClientApp's metrics"
        )
    return int(number)
