"""A round whose replies come twice, late, for others, for other rounds, or damaged."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from fedlama.choices.codecs import Float32
from fedlama.errors import FedlamaError
from fedlama.flower.protocol import ClientInfo, Failure, Incoming, Outgoing, TrainReply, TrainRequest
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.round import RoundPolicy, RoundRunner
from tests.fuzz.harness import Target
from tests.fuzz.targets.upload import CLIENT, ROUND, setting

_KINDS = ("good", "twice", "unasked", "round", "client", "stale", "refused", "failure", "info", "cut", "nan")


class _Hostile:
    """A channel whose nodes send what the input says, in its order, all at once."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self._tickets: list[str] = []
        self._infos: list[Incoming] = []

    def nodes(self) -> tuple[int, ...]:
        return (10, 11)

    def push(self, outgoing: Sequence[Outgoing], lifetime: float) -> list[str]:
        tickets = [f"{len(self._tickets)}-{number}" for number, _ in enumerate(outgoing)]
        for ticket, message in zip(tickets, outgoing, strict=True):
            if isinstance(message.content, TrainRequest):
                self._tickets.append(ticket)
            else:
                self._infos += [Incoming(ticket, ClientInfo(message.node - 10, 6))] * 2  # every reply comes twice
        return tickets

    def pull(self, tickets: Collection[str]) -> list[Incoming]:
        infos, self._infos = self._infos, []
        if not self._tickets or not self._script:
            return infos
        kind = self._script.pop(0)
        ticket = self._tickets[-1]
        reply = setting().reply
        content: TrainReply | Failure | ClientInfo = reply
        match kind:
            case "twice":
                return [Incoming(ticket, content), Incoming(ticket, content)]
            case "unasked":
                return [Incoming("unasked", content)]
            case "round":
                content = replace(reply, round_index=ROUND - 1)
            case "client":
                content = replace(reply, client=CLIENT - 1)
            case "stale" | "refused":
                content = replace(reply, status=kind)
            case "failure":
                content = Failure("crashed", final=False)
            case "info":
                content = ClientInfo(1, 6)
            case "cut":
                content = replace(reply, payload=reply.payload[:-1])
            case "nan":
                content = replace(reply, payload=reply.payload[:-4] + b"\x00\x00\xc0\x7f")
        return [Incoming(ticket, content)]


def _make(draw: Random) -> bytes:
    return json.dumps(draw.choices(_KINDS, k=draw.randrange(5))).encode()


def _read(data: bytes) -> None:
    try:
        script = json.loads(data)
    except (ValueError, RecursionError):
        script = []
    channel, given = _Hostile(script if isinstance(script, list) else []), setting()
    registry = NodeRegistry(channel, 2)
    runner = RoundRunner(channel, registry, RoundPolicy(deadline=0.0, join=0.0, poll=0.0), given.layers, Float32())
    registry.online()
    result = runner.run(ROUND, [CLIENT], lambda _client, _full: given.request, ())
    assert list(result.updates) == [CLIENT]


def refusal(script: Sequence[str]) -> str:
    """Return why a script of replies is refused; empty when one of them is accepted."""
    try:
        _read(json.dumps(list(script)).encode())
    except FedlamaError as error:
        return str(error)
    return ""


TARGET = Target("round-messages", _make, _read)
