"""One stage of the secure aggregation: ask clients, repeat what was lost, and stop when enough have answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedlama.core import wire
from fedlama.core.ledger import Direction, LayerPayload, Transfer
from fedlama.errors import DataError, cut
from fedlama.flower.protocol import REASON_CHARACTERS, Channel, Incoming, Outgoing, SecureReply, SecureRequest
from fedlama.flower.secure.agreement import content_of
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.round import RoundPolicy, RoundResult

KEYS = "(secure aggregation)"
"""What stands for a layer in the ledger for keys, shares and what takes masks out."""
_ATTEMPTS = 10  # requests to one client in one stage
_EXTRA_LIFETIME = 60.0  # seconds that a message outlives the deadline
_LOG = logging.getLogger("fedlama.flower")


@dataclass
class Traffic:
    """What the secure aggregation sent in a round beside the uploads, and what went wrong.

    Attributes:
        round_index: The round.
        result: The round's result, which gets the incidents.
        transfers: All messages, for the ledger.
    """

    round_index: int
    result: RoundResult
    transfers: list[Transfer] = field(default_factory=list)

    def add(self, direction: Direction, lengths: Mapping[int, int]) -> None:
        """Count messages.

        Args:
            direction: ``"up"`` or ``"down"``.
            lengths: Client to the bytes of what its message carries, without the message's own headers.
        """
        for length in sorted(set(lengths.values())):
            clients = tuple(sorted(client for client, other in lengths.items() if other == length))
            self.transfers.append(Transfer(self.round_index, direction, clients, (LayerPayload(KEYS, 0, length),)))

    def note(self, incident: str) -> None:
        """Record an incident once, and log it."""
        if incident not in self.result.incidents:
            self.result.incidents.append(incident)
            _LOG.warning("round %d: %s", self.round_index, incident)

    def total_bytes(self, direction: Direction) -> int:
        """Return the bytes of one direction."""
        return sum(transfer.total_bytes for transfer in self.transfers if transfer.direction == direction)


@dataclass
class Stage:
    """One stage, and how far it has come.

    Attributes:
        requests: Client to its request.
        length: Bytes of what a reply carries.
        needed: Number of replies that are enough.
        absent: Clients that are not waited for once there are enough.
        waits_for_all: Whether to wait for more than are enough.
        done: Client to what it sent.
        out: Clients that will not answer.
        tries: Client to the number of requests to it.
        waiting: Ticket to the client whose request is on its way.
    """

    requests: Mapping[int, SecureRequest]
    length: int
    needed: int
    absent: set[int] = field(default_factory=set)
    waits_for_all: bool = True
    done: dict[int, bytes] = field(default_factory=dict)
    out: set[int] = field(default_factory=set)
    tries: dict[int, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def open(self) -> set[int]:
        """The clients that may still answer."""
        return self.requests.keys() - self.done.keys() - self.out

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        enough = len(self.done) >= self.needed
        return not self.open - (self.absent if enough else set()) or (enough and not self.waits_for_all)


class Exchange:
    """Sends the requests of a stage and collects the replies.

    Args:
        channel: How the nodes are reached.
        registry: Which node serves which client.
        policy: How long to wait, and how many clients are enough.
    """

    def __init__(self, channel: Channel, registry: NodeRegistry, policy: RoundPolicy) -> None:
        self._channel, self._registry, self.policy = channel, registry, policy

    def online(self) -> Collection[int]:
        """Return the clients that are online now."""
        return self._registry.online()

    def collect(self, stage: Stage, traffic: Traffic) -> dict[int, bytes]:
        """Ask clients and wait for their replies.

        Args:
            stage: The stage.
            traffic: Gets what was sent, and the incidents.

        Returns:
            Client to what its reply carries, in the order of the clients.
        """
        end = time.monotonic() + self.policy.deadline
        while True:
            self._send(stage, end)
            for incoming in self._channel.pull(list(stage.waiting)) if stage.waiting else []:
                client = stage.waiting.pop(incoming.ticket, None)
                if client is not None:
                    _take(incoming, client, stage, traffic)
            if stage.is_over:
                break
            if time.monotonic() >= end:
                traffic.note(f"the deadline of {self.policy.deadline:g} s for the secure aggregation has passed")
                break
            time.sleep(self.policy.poll)
        lengths = {client: len(content_of(request.payload)) for client, request in stage.requests.items()}
        for again in range(max(stage.tries.values(), default=0)):
            traffic.add("down", {c: lengths[c] for c, tries in stage.tries.items() if tries > again})
        traffic.add("up", dict.fromkeys(stage.done, stage.length))
        return dict(sorted(stage.done.items()))

    def _send(self, stage: Stage, end: float) -> None:
        """Send requests to clients that are online and have none on its way."""
        online = self._registry.online()
        idle = sorted((stage.open - set(stage.waiting.values())) & online.keys())
        if not idle:
            return
        lifetime = max(end - time.monotonic(), 1.0) + _EXTRA_LIFETIME
        most = wire.message_bytes([stage.length], scalars=False)
        outgoing = [Outgoing(online[client], stage.requests[client], most) for client in idle]
        tickets = self._channel.push(outgoing, lifetime)
        for ticket, client in zip(tickets, idle, strict=True):
            if ticket:
                stage.waiting[ticket] = client
                stage.tries[client] = stage.tries.get(client, 0) + 1
                stage.absent.discard(client)  # it is back


def _take(incoming: Incoming, client: int, stage: Stage, traffic: Traffic) -> None:
    """Take a reply in, or note why not."""
    content = incoming.content
    if content.kind == "failure":
        traffic.note(f"client {client}: {content.reason}")
        if content.final or stage.tries.get(client, 0) >= _ATTEMPTS:
            stage.out.add(client)
        return
    try:
        if content.kind != "secured" or _address(content) != _address(stage.requests[client]):
            raise DataError("it is not a reply to a request of the secure aggregation")
        if content.payload:
            received = content_of(content.payload)
            if len(received) != stage.length:
                raise DataError(f"it carries {len(received)} bytes, expected {stage.length}")
            stage.done[client] = received
            return
        traffic.note(f"client {client} takes no part in the sum: {cut(content.detail, REASON_CHARACTERS)}")
    except DataError as error:
        traffic.note(f"client {client}: reply refused: {error}")
    stage.out.add(client)


def _address(content: SecureRequest | SecureReply) -> tuple[str, str, int, int]:
    return content.agreement, content.stage, content.round_index, content.client
