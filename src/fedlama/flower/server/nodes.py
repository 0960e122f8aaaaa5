"""The clients as the server knows them: their numbers of samples, and the nodes that serve them.

A node's number changes when it restarts without a registered key; a client's number never changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedlama.data.clients import Batch
from fedlama.data.local_sets import Part
from fedlama.errors import ConfigError, FedlamaError
from fedlama.flower.protocol import Channel, ClientInfo, InfoRequest, Outgoing

_LOG = logging.getLogger("fedlama.flower")


@dataclass(frozen=True)
class RemoteClients:
    """Clients of which the server knows only the number of samples; give it to a Federation as ``clients``.

    Args:
        counts: n_i per client.
        with_test_set: The clients that have a test set of their own.
    """

    counts: Sequence[int]
    with_test_set: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.counts)

    def samples(self, client: int) -> int:
        """Number of training samples n_i."""
        return self.counts[client]

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Refuse: the data are on the client's machine.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"the data of client {client} are on its own machine; train there")

    def held_out(self, client: int, part: Part) -> Iterator[Batch] | None:
        """Return None where a client has no test set of its own; one that it has can only be read there."""
        return map(self._refuse, [client]) if part == "test" and client in self.with_test_set else None

    @staticmethod
    def _refuse(client: int) -> Batch:
        raise ConfigError(f"the test set of client {client} is on its own machine; score there")


class NodeRegistry:
    """Asks each new node which client it serves, and keeps the replies.

    Args:
        channel: How the nodes are reached.
        clients: Number of clients of the federation.
        lifetime: Seconds after which a request without a reply is sent again.
        grace: Seconds for which two nodes may serve one client: a node that died counts as online for about a minute.
        pause: Seconds after which a node that refused is asked again.

    Attributes:
        samples: Client to its number of training samples, of all clients that were ever online.
        with_test_set: The clients that were ever online and have a test set of their own.
        problems: Node to the reason why it serves no client, of the nodes that are online.
    """

    def __init__(
        self, channel: Channel, clients: int, *, lifetime: float = 120.0, grace: float = 120.0, pause: float = 10.0
    ) -> None:
        self._channel, self._clients = channel, clients
        self._lifetime, self._grace, self._pause = lifetime, grace, pause
        self._client_of: dict[int, int] = {}
        self._asked: dict[str, tuple[int, float]] = {}  # ticket to its node and the time when it is out of date
        self._ask_again: dict[int, float] = {}  # node that refused to the time when it is asked again
        self._served_twice: dict[int, float] = {}  # client to the time since which two nodes have served it
        self.samples: dict[int, int] = {}
        self.with_test_set: set[int] = set()
        self.problems: dict[int, str] = {}

    def online(self) -> dict[int, int]:
        """Return the clients that are online now; never waits.

        Returns:
            Client to node, of the clients whose nodes are online and have replied.

        Raises:
            FedlamaError: Two nodes that are online serve the same client, or a node serves a client that the
                federation does not have.
        """
        online = set(self._channel.nodes())
        self.problems = {node: problem for node, problem in self.problems.items() if node in online}
        self._receive(online)
        self._ask(online)
        nodes: dict[int, list[int]] = {}
        for node, client in self._client_of.items():  # in the order of their replies
            if node in online:
                nodes.setdefault(client, []).append(node)
        self._refuse_doubles({client: serving for client, serving in nodes.items() if len(serving) > 1})
        return {client: serving[-1] for client, serving in nodes.items()}

    @property
    def is_asking(self) -> bool:
        """Whether a node has been asked which client it serves, and has not replied yet."""
        return bool(self._asked)

    def wait_for(self, wanted: Iterable[int], seconds: float, poll: float) -> dict[int, int]:
        """Wait until certain clients are online.

        Args:
            wanted: The clients.
            seconds: How long at most.
            poll: Seconds between two looks.

        Returns:
            Client to node, of all clients that are online then.
        """
        missing, end = set(wanted), time.monotonic() + seconds
        while True:
            clients = self.online()
            if missing <= set(clients) or time.monotonic() >= end:
                return clients
            time.sleep(poll)

    def _refuse_doubles(self, doubles: dict[int, list[int]]) -> None:
        now = time.monotonic()
        self._served_twice = {client: self._served_twice.get(client, now) for client in doubles}
        for client, since in self._served_twice.items():
            if now - since >= self._grace:
                first, second = sorted(doubles[client])[:2]
                raise FedlamaError(
                    f"the nodes {first} and {second} both say that they serve client {client}; start one of them with "
                    "another partition-id in --node-config"
                )

    def _ask(self, online: set[int]) -> None:
        now = time.monotonic()
        self._asked = {t: (node, end) for t, (node, end) in self._asked.items() if node in online and end > now}
        waiting = {node for node, _ in self._asked.values()} | {n for n, end in self._ask_again.items() if end > now}
        unknown = sorted(online - set(self._client_of) - waiting)
        if unknown:
            tickets = self._channel.push([Outgoing(node, InfoRequest()) for node in unknown], self._lifetime)
            end = now + self._lifetime
            self._asked |= {ticket: (node, end) for ticket, node in zip(tickets, unknown, strict=True) if ticket}

    def _receive(self, online: set[int]) -> None:
        if not self._asked:
            return
        for incoming in self._channel.pull(list(self._asked)):
            node, _ = self._asked.pop(incoming.ticket, (None, 0.0))  # a reply that comes twice counts once
            if node is None or node not in online:
                continue
            content = incoming.content
            if content.kind == "info":
                self._register(node, content)
            elif content.kind == "failure":
                self._ask_again[node] = time.monotonic() + self._pause
                problem = f"node {node}: {content.reason}"
                if self.problems.get(node) != problem:
                    _LOG.warning(problem)
                self.problems[node] = problem

    def _register(self, node: int, info: ClientInfo) -> None:
        if not 0 <= info.client < self._clients:
            raise FedlamaError(
                f"node {node} serves client {info.client}, but the federation has {self._clients} clients "
                f"(0 to {self._clients - 1}); correct its partition-id in --node-config"
            )
        self.problems.pop(node, None)
        self._client_of[node] = info.client
        self.samples[info.client] = info.samples
        (self.with_test_set.add if info.has_test_set else self.with_test_set.discard)(info.client)
