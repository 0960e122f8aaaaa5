"""The clients as the server knows them: their numbers of samples, and the nodes that serve them.

A node's number changes when it restarts without a registered key; a client's number never changes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedlama.core.validation import refuse
from fedlama.data.clients import Batch
from fedlama.data.local_sets import Part
from fedlama.errors import ConfigError
from fedlama.flower.protocol import Channel, ClientInfo, InfoRequest, Outgoing
from fedlama.flower.server.known_clients import KnownClients

_NONE_KNOWN = KnownClients()
_LOG = logging.getLogger("fedlama.flower")
_LONGEST_LIFETIME = 3600.0


@dataclass(frozen=True)
class RemoteClients:
    """Clients of which the server knows only the number of samples; give it to a Federation as ``clients``.

    Args:
        counts: n_i per client.
        with_test_set: The clients that have a test set of their own.
    """

    counts: Sequence[int]
    with_test_set: frozenset[int] = frozenset()

    def to_json(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {"samples": list(self.counts), "with_test_set": sorted(self.with_test_set)}

    @classmethod
    def from_file(cls, path: Path, clients: int) -> Self | None:
        """Read back what :meth:`to_json` returned; None where the file is missing or of another number of clients.

        Args:
            path: The file.
            clients: Number of clients of the federation.
        """
        try:
            record = json.loads(path.read_bytes())
            counts, tested = record["samples"], record["with_test_set"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        whole = [value for value in (*counts, *tested) if type(value) is int and value >= 0]
        if len(whole) != len(counts) + len(tested) or len(counts) != clients or 0 in counts:
            return None
        return cls(tuple(counts), frozenset(tested))

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
        known: Which node may serve which client, and how much each client weighs.
        lifetime: Seconds after which a node's first request without a reply is sent again. Each further request of this
            node lives twice as long, up to an hour: a node whose first reply takes longer than a request lives (a
            large data set, a busy machine) would otherwise reply too late every time.
        pause: Seconds after which a node that refused is asked again.

    Attributes:
        samples: Client to its number of training samples, of all clients that were ever online.
        with_test_set: The clients that were ever online and have a test set of their own.
        problems: Node to the reason why it serves no client, of the nodes that are online.
    """

    def __init__(
        self,
        channel: Channel,
        clients: int,
        known: KnownClients = _NONE_KNOWN,
        *,
        lifetime: float = 120.0,
        pause: float = 10.0,
    ) -> None:
        refuse(known.problems(clients))
        self._channel, self._clients, self._known = channel, clients, known
        self._lifetime, self._pause = lifetime, pause
        self._client_of: dict[int, int] = {}
        self._asked: dict[str, tuple[int, float]] = {}  # ticket to its node and the time when it is out of date
        self._lifetimes: dict[int, float] = {}  # node to the seconds that its next request lives
        self._ask_again: dict[int, float] = {}  # node that refused to the time when it is asked again
        self.samples: dict[int, int] = {}
        self.with_test_set: set[int] = set()
        self.problems: dict[int, str] = {}

    def online(self) -> dict[int, int]:
        """Return the clients that are online now; never waits.

        A node that has served a client is preferred to one that came later, so that no newcomer takes its place. A
        node that died counts as online for about a minute; then the newcomer serves the client.

        Returns:
            Client to node, of the clients whose nodes are online and have replied.
        """
        online = set(self._channel.nodes())
        self.problems = {node: problem for node, problem in self.problems.items() if node in online}
        self._receive(online)
        self._ask(online)
        serving: dict[int, int] = {}
        for node, client in self._client_of.items():  # in the order of their replies
            if node not in online:
                continue
            first = serving.setdefault(client, node)
            self._note(
                node,
                ""
                if first == node
                else f"node {node} says that it serves client {client}, as node {first} does, and "
                "is not asked while that one is online; start one of them with another partition-id in --node-config",
            )
        return serving

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

    def _note(self, node: int, problem: str) -> None:
        """Keep the reason why a node serves no client, and log it once; an empty one clears it."""
        if not problem:
            self.problems.pop(node, None)
            return
        if self.problems.get(node) != problem:
            _LOG.warning(problem)
        self.problems[node] = problem

    def _ask(self, online: set[int]) -> None:
        now = time.monotonic()
        self._asked = {t: (node, end) for t, (node, end) in self._asked.items() if node in online and end > now}
        waiting = {node for node, _ in self._asked.values()} | {n for n, end in self._ask_again.items() if end > now}
        unknown = sorted(online - set(self._client_of) - waiting)
        for lifetime in sorted({self._lifetimes.get(node, self._lifetime) for node in unknown}):
            nodes = [node for node in unknown if self._lifetimes.get(node, self._lifetime) == lifetime]
            tickets = self._channel.push([Outgoing(node, InfoRequest()) for node in nodes], lifetime)
            asked = {ticket: (node, now + lifetime) for ticket, node in zip(tickets, nodes, strict=True) if ticket}
            self._asked |= asked
            self._lifetimes |= {node: min(2 * lifetime, _LONGEST_LIFETIME) for node, _ in asked.values()}

    def _receive(self, online: set[int]) -> None:
        if not self._asked:
            return
        for incoming in self._channel.pull(list(self._asked)):
            node, _ = self._asked.pop(incoming.ticket, (None, 0.0))  # a reply that comes twice counts once
            if node is None or node not in online:
                continue
            content = incoming.content
            if content.kind == "info" or (content.kind == "failure" and content.final):
                self._lifetimes.pop(node, None)  # it is the node that has replied, in time
            if content.kind == "info":
                self._register(node, content)
            elif content.kind == "failure":
                self._ask_again[node] = time.monotonic() + self._pause
                self._note(node, f"node {node}: {content.reason}")

    def _register(self, node: int, info: ClientInfo) -> None:
        """Note which client a node serves; a node that claims what it may not is ignored, and asked again later."""
        problem = self._known.misfit(info.client, node)
        if not 0 <= info.client < self._clients:
            problem = f"but the federation has {self._clients} clients (0 to {self._clients - 1})"
        if problem:
            self._ask_again[node] = time.monotonic() + self._pause
            remedy = "correct its partition-id in --node-config, or the clients file"
            self._note(node, f"node {node} says that it serves client {info.client}, {problem}; {remedy}")
            return
        self._note(node, "")
        self._client_of[node] = info.client
        self.samples[info.client] = self._known.weighed(info.client, info.samples)
        (self.with_test_set.add if info.has_test_set else self.with_test_set.discard)(info.client)
