"""One round's messages: send each client its request, wait as long as the policy says, repeat what failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedlama.choices.availability.rules import Rules
from fedlama.choices.codecs import Codec
from fedlama.core.layers import Layers
from fedlama.core.validation import at_least, normalise_numbers, refuse
from fedlama.errors import DataError, FedlamaError, cut
from fedlama.flower.protocol import REASON_CHARACTERS, Channel, Failure, Outgoing, TrainReply, TrainRequest
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.replies import ClientUpdate, Held, check, check_masked, reply_bytes

MakeRequest = Callable[[int, bool], TrainRequest]
"""Makes a client's request; the second argument says whether it must carry the full model."""

_LOG = logging.getLogger("fedlama.flower")
_ATTEMPTS = 10  # requests to one client in one round
_EXTRA_LIFETIME = 60.0  # seconds that a message outlives the round's deadline


@dataclass(frozen=True, kw_only=True)
class RoundPolicy(Rules):
    """How long the server waits in a round, for how many clients, and when a lost client may come back.

    A round ends when every client that is waited for has replied, or at the deadline with at least `min_replies`. A
    client that missed a round and is not online again is not waited for. Weights are rescaled over the clients that
    replied.

    Args:
        deadline: Seconds that a round waits for replies.
        join: Seconds that a run waits at its start until all clients are online.
        poll: Seconds between two looks for replies.
        min_replies: Share of the cohort that must reply; below 1, no single client can end a run. See
            :class:`~fedlama.choices.availability.Rules`.
        rejoin: When a client that missed a round may come back; see :class:`~fedlama.choices.availability.Rules`.
    """

    min_replies: float = 0.5
    deadline: float = 600.0
    join: float = 300.0
    poll: float = 0.5

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 0, "deadline", "join", "poll") + self._misfits())


@dataclass
class RoundResult:
    """The messages of one round.

    Attributes:
        sent: All requests in the order of sending; a client that was asked twice is in it twice.
        updates: Client to the content of its accepted reply.
        missing: Clients without an accepted reply.
        incidents: What went wrong, one sentence each.
    """

    sent: list[TrainRequest] = field(default_factory=list)
    updates: dict[int, ClientUpdate] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    incidents: list[str] = field(default_factory=list)


@dataclass
class _Progress:
    """How far a round has come.

    Attributes:
        round_index: The round.
        make_request: Makes a client's request.
        held: What the server holds.
        open: Clients that may still reply in this round.
        absent: Clients that are not waited for, because they missed a round and have not come back.
        was_absent: Clients that were absent when the round began.
        needs_full: Clients that said that they need the full model.
        waiting: Ticket to the request that is on its way.
        result: The result so far.
    """

    round_index: int
    make_request: MakeRequest
    held: Held
    open: set[int]
    absent: set[int]
    was_absent: frozenset[int]
    needs_full: set[int] = field(default_factory=set)
    waiting: dict[str, TrainRequest] = field(default_factory=dict)
    result: RoundResult = field(default_factory=RoundResult)

    def note(self, incident: str, *, logged: bool = False) -> None:
        """Record an incident once, and log it unless it has been logged."""
        if incident not in self.result.incidents:
            self.result.incidents.append(incident)
            if not logged:
                _LOG.warning("round %d: %s", self.round_index, incident)

    def refuse(self, client: int, reason: str) -> None:
        """Record a refused reply; the client is not asked again in this round."""
        self.open.discard(client)
        self.note(f"client {client}: reply refused: {reason}")


class RoundRunner:
    """Runs the messages of a round.

    Args:
        channel: How the nodes are reached.
        registry: Which node serves which client.
        policy: How long a round waits, and for how many replies.
        layers: The labelling.
        codec: How uploads are compressed.
    """

    def __init__(
        self, channel: Channel, registry: NodeRegistry, policy: RoundPolicy, layers: Layers, codec: Codec
    ) -> None:
        self._channel, self._registry, self._policy = channel, registry, policy
        self._layers, self._codec = layers, codec

    def run(
        self,
        round_index: int,
        cohort: Sequence[int],
        make_request: MakeRequest,
        absent: Collection[int],
        held: Held | None = None,
        *,
        least: int = 1,
        result: RoundResult | None = None,
    ) -> RoundResult:
        """Send one round's requests and collect the replies.

        Args:
            round_index: The round, from 0.
            cohort: The clients to ask.
            make_request: Makes a client's request.
            absent: Clients that missed a round and may still be away; they are not waited for.
            held: What the server holds; see :func:`fedlama.flower.server.replies.check`.
            least: Number of replies that are needed whatever the policy says.
            result: Gets what happens, also of a round that fails; by default a new one.

        Returns:
            The requests, the accepted replies and the incidents.

        Raises:
            FedlamaError: Fewer clients replied than the policy demands.
        """
        progress = _Progress(round_index, make_request, held or Held(), set(cohort), set(absent), frozenset(absent))
        progress.result = result = progress.result if result is None else result
        needed = max(self._policy.needed(len(cohort)), least)
        end = time.monotonic() + self._policy.deadline
        while True:
            self._send(progress, end)
            self._receive(progress)
            enough = len(result.updates) >= needed
            if not (progress.open - (progress.absent if enough else set())):
                break
            if time.monotonic() >= end:
                progress.note(f"the deadline of {self._policy.deadline:g} s has passed")
                break
            time.sleep(self._policy.poll)
        for client in sorted(progress.open):
            progress.note(f"client {client} did not answer")
        result.missing = set(cohort) - set(result.updates)
        if not enough:
            raise FedlamaError(
                f"round {round_index}: {len(result.updates)} of {len(cohort)} clients answered, {needed} are needed "
                f"({'; '.join(result.incidents)}); nothing is lost: start the clients again and repeat the same "
                "command, or lower min-replies"
            )
        return result

    def _send(self, progress: _Progress, end: float) -> None:
        """Send requests to the open clients that are online and have no request on its way."""
        idle = sorted(progress.open - {request.client for request in progress.waiting.values()})
        if not idle:
            return
        online = self._registry.online()
        for problem in self._registry.problems.values():
            progress.note(problem, logged=True)
        requests = [progress.make_request(client, client in progress.needs_full) for client in idle if client in online]
        if not requests:
            return
        lifetime = max(end - time.monotonic(), 1.0) + _EXTRA_LIFETIME
        outgoing = [
            Outgoing(online[request.client], request, reply_bytes(request, self._layers, self._codec))
            for request in requests
        ]
        tickets = self._channel.push(outgoing, lifetime)
        for ticket, request in zip(tickets, requests, strict=True):
            if ticket:
                progress.waiting[ticket] = request
                progress.result.sent.append(request)
                progress.absent.discard(request.client)  # it is back, so the round waits for it

    def _receive(self, progress: _Progress) -> None:
        """Fetch the replies that have arrived."""
        if not progress.waiting:
            return
        for incoming in self._channel.pull(list(progress.waiting)):
            request = progress.waiting.pop(incoming.ticket, None)
            if request is None:  # a reply that comes twice, or that was never asked for, is ignored
                continue
            content = incoming.content
            if content.kind == "trained":
                self._accept(progress, content, request)
            elif content.kind == "failure":
                self._count_failure(progress, content, request)
            else:
                progress.refuse(request.client, "it is not a reply to a training request")

    def _accept(self, progress: _Progress, reply: TrainReply, request: TrainRequest) -> None:
        """Take a reply's update in, or note why not."""
        client = request.client
        if reply.status == "stale" and request.stage == "chosen":
            progress.refuse(client, "it no longer has what it trained in this round")
        elif reply.status == "stale" and client not in progress.needs_full:
            progress.needs_full.add(client)
            progress.note(f"client {client} has lost its state and is sent the full model")
        elif reply.status == "stale":
            progress.refuse(client, "it asks for the full model, which it was sent")
        elif reply.status == "refused":
            progress.open.discard(client)
            progress.note(f"client {client} cannot train: {cut(reply.detail, REASON_CHARACTERS)}")
        else:
            try:
                progress.result.updates[client] = (
                    check_masked(reply, request, self._layers)
                    if request.agreement
                    else check(reply, request, self._layers, self._codec, progress.held)
                )
                progress.open.discard(client)
            except DataError as error:
                progress.refuse(client, str(error))

    def _count_failure(self, progress: _Progress, failure: Failure, request: TrainRequest) -> None:
        """Note a failure; the client is asked again unless that cannot help."""
        client = request.client
        progress.note(f"client {client}: {failure.reason}")
        progress.absent |= {client} & progress.was_absent
        attempts = sum(sent.client == client for sent in progress.result.sent)
        if failure.final or attempts >= _ATTEMPTS:
            progress.open.discard(client)
