"""A channel inside one process: the nodes' side of a deployment by plain calls, with faults on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from fedlama.data.local_sets import held_out
from fedlama.engines.api import EngineSetup
from fedlama.flower.client.respond import evaluate, respond
from fedlama.flower.client.trainer import LoopTrainer
from fedlama.flower.protocol import (
    ClientInfo,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    Incoming,
    Outgoing,
    SecureReply,
    SecureRequest,
    TrainReply,
    TrainRequest,
)

Fault = Callable[[TrainRequest], str | None]
"""Names the fault of a request: None, ``"lost"`` (nothing arrives), ``"mute"`` (trained, but the reply is lost),
``"crash"``, or the name of a way to damage the reply."""


def no_fault(request: TrainRequest) -> str | None:
    """No request fails."""
    return None


def no_score_fault(request: EvaluateRequest) -> str | None:
    """No request for a score fails."""
    return None


def no_secure_fault(request: SecureRequest) -> str | None:
    """No request of the secure aggregation fails."""
    return None


class InProcessChannel:
    """Nodes 100, 101, ... that serve the clients 0, 1, ...; every request is carried out when it is pushed.

    Args:
        setup: Makes a client's fixed parts for each request, as a new process would.
        clients: Number of clients.
        folder: Folder of the clients' states.
        fault: Names the fault of each request.
    """

    def __init__(self, setup: Callable[[], EngineSetup], clients: int, folder: Path, fault: Fault = no_fault) -> None:
        self._setup, self._folder, self.fault = setup, folder, fault
        self.online = {100 + client: client for client in range(clients)}
        self.claims: dict[int, int] = {}  # node to the number of samples that it claims, when it lies
        self.refusing: dict[int, str] = {}  # node to the reason why it serves no client
        self._replies: dict[str, Incoming] = {}
        self._count = 0
        self.requests: list[TrainRequest] = []
        self.evaluations: list[EvaluateRequest] = []
        self.score_fault: Callable[[EvaluateRequest], str | None] = no_score_fault
        self.secured: list[tuple[SecureRequest, SecureReply | None]] = []
        self.secure_fault: Callable[[SecureRequest], str | None] = no_secure_fault
        self.replies: list[TrainReply] = []

    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.online))

    def path(self, client: int) -> Path:
        return self._folder / f"client-{client}.safetensors"

    def push(self, outgoing: Sequence[Outgoing], lifetime: float) -> list[str]:
        return [self._push(message) for message in outgoing]

    def pull(self, tickets: Collection[str]) -> list[Incoming]:
        ready = [ticket for ticket in sorted(tickets, reverse=True) if ticket in self._replies]  # not in client order
        return [self._replies.pop(ticket) for ticket in ready]

    def _push(self, message: Outgoing) -> str:
        client = self.online.get(message.node)
        if client is None:
            return ""
        self._count += 1
        ticket = f"{self._count:06d}"
        content: TrainReply | EvaluateReply | SecureReply | ClientInfo | Failure | None
        if isinstance(message.content, TrainRequest):
            content = self._reply(client, message.content)
            if isinstance(content, TrainReply) and content.status == "done" and not self.fault(message.content):
                parts = content.payload, content.evaluation, content.masked_loss
                assert sum(map(len, parts)) <= message.reply_bytes  # less only where a codec's payloads vary
        elif message.node in self.refusing:
            content = Failure(self.refusing[message.node], final=True)
        elif isinstance(message.content, EvaluateRequest):
            content = self._score(client, message.content)
        elif isinstance(message.content, SecureRequest):
            content = self._agree(client, message.content)
            assert not isinstance(content, SecureReply) or len(content.payload) <= message.reply_bytes
        else:
            source = self._setup().clients
            tested = client < len(source) and held_out(source, client, "test") is not None
            samples = self.claims.get(message.node) or source.samples(client)
            content = ClientInfo(client, samples, tested)
        if content is not None:
            self._replies[ticket] = Incoming(ticket, content)
        return ticket

    def _agree(self, client: int, request: SecureRequest) -> SecureReply | Failure | None:
        from fedlama.flower.client.secrets import agree

        assert request.client == client
        fault = self.secure_fault(request)
        if fault == "raise":
            self.secured.append((request, None))
            return Failure("<class 'ValueError'>", final=True)
        reply = None if fault == "lost" else agree(request, self.path(client))
        if reply and fault == "short":
            reply = replace(reply, payload=reply.payload[:-4])
        if reply and fault == "wrong":
            reply = replace(reply, payload=reply.payload[:-1] + bytes([reply.payload[-1] ^ 1]))
        self.secured.append((request, reply))
        return reply

    def _score(self, client: int, request: EvaluateRequest) -> EvaluateReply | Failure | None:
        assert request.client == client
        self.evaluations.append(request)
        fault = self.score_fault(request)
        if fault == "lost":
            return None
        if fault == "crash":
            return Failure("ClientApp crashed", final=False)
        reply = evaluate(request, LoopTrainer(self._setup(), client), self._folder)
        return replace(reply, round_index=reply.round_index - 1) if fault == "round" else reply

    def _reply(self, client: int, request: TrainRequest) -> TrainReply | Failure | None:
        assert request.client == client
        self.requests.append(request)
        fault = self.fault(request)
        if fault == "lost":
            return None
        if fault == "crash":
            return Failure("ClientApp crashed", final=False)
        if fault == "raise":
            return Failure("<class 'ValueError'>", final=True)
        reply = respond(request, LoopTrainer(self._setup(), client), self.path(client))
        self.replies.append(reply)
        if fault == "mute":
            return None
        if fault == "round":
            return replace(reply, round_index=request.round_index - 1)
        if fault == "short":
            return replace(reply, payload=reply.payload[:-4])
        if fault == "client":
            return replace(reply, client=client + 1)
        return reply
