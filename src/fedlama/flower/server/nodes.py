"""Which node serves which client: node numbers change when nodes restart, clients' numbers never do."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fedlama.errors import FedlamaError
from fedlama.flower.protocol import Introduction, Question
from fedlama.flower.transport import Channel, Letter


class Roster:
    """Asks nodes that it does not know which client they serve, and keeps what they say.

    Args:
        channel: How to reach them.
        population: Number of clients of the federation.
        lifetime: Seconds after which an unanswered question is asked again.
        grace: Seconds for which two nodes may serve one client: one that died counts as online for about a minute.

    Attributes:
        samples: Client to its number of training samples, of all that have ever introduced themselves.
    """

    def __init__(self, channel: Channel, population: int, lifetime: float = 120.0, grace: float = 120.0) -> None:
        self._channel, self._population, self._lifetime, self._grace = channel, population, lifetime, grace
        self._doubled: dict[int, float] = {}
        self._client_of: dict[int, int] = {}
        self._asked: dict[str, tuple[int, float]] = {}
        self.samples: dict[int, int] = {}

    def online(self) -> dict[int, int]:
        """Look who is there, without waiting.

        Returns:
            Client to node, of the clients that are online and have introduced themselves.

        Raises:
            FedlamaError: Two nodes that are online serve the same client, or one serves a client beyond the last.
        """
        here = set(self._channel.nodes())
        self._hear(here)
        self._ask(here)
        nodes: dict[int, list[int]] = {}
        for node, client in self._client_of.items():  # in the order in which they introduced themselves
            if node in here:
                nodes.setdefault(client, []).append(node)
        self._refuse_doubles({client: serving for client, serving in nodes.items() if len(serving) > 1})
        return {client: serving[-1] for client, serving in nodes.items()}

    def gather(self, wanted: Iterable[int], seconds: float, poll: float) -> dict[int, int]:
        """Wait until certain clients are online.

        Args:
            wanted: Clients.
            seconds: How long at most.
            poll: Seconds between two looks.

        Returns:
            Client to node, of all who are online then.
        """
        missing, end = set(wanted), time.monotonic() + seconds
        while True:
            found = self.online()
            if missing <= set(found) or time.monotonic() >= end:
                return found
            time.sleep(poll)

    def _refuse_doubles(self, doubles: dict[int, list[int]]) -> None:
        now = time.monotonic()
        self._doubled = {client: self._doubled.get(client, now) for client in doubles}
        for client, since in self._doubled.items():
            if now - since >= self._grace:
                first, second = sorted(doubles[client])[:2]
                raise FedlamaError(
                    f"the nodes {first} and {second} both say that they serve client {client}; start one of them with "
                    "another partition-id in --node-config"
                )

    def _ask(self, here: set[int]) -> None:
        now = time.monotonic()
        self._asked = {t: (node, end) for t, (node, end) in self._asked.items() if node in here and end > now}
        strangers = sorted(here - set(self._client_of) - {node for node, _ in self._asked.values()})
        if strangers:
            tickets = self._channel.push([Letter(node, Question()) for node in strangers], self._lifetime)
            due = now + self._lifetime
            self._asked |= {ticket: (node, due) for ticket, node in zip(tickets, strangers, strict=True) if ticket}

    def _hear(self, here: set[int]) -> None:
        if not self._asked:
            return
        for delivery in self._channel.pull(list(self._asked)):
            node, _ = self._asked.pop(delivery.ticket, (None, 0.0))  # a reply that comes twice counts once
            if isinstance(delivery.content, Introduction) and node in here and node is not None:
                client = delivery.content.client
                if not 0 <= client < self._population:
                    raise FedlamaError(
                        f"node {node} says that it serves client {client}, but the federation has {self._population} "
                        f"clients (0 to {self._population - 1}); correct its partition-id in --node-config"
                    )
                self._client_of[node] = client
                self.samples[client] = delivery.content.samples
