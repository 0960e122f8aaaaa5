"""A round's exchange whose replies come twice, late, for others, for other rounds, or damaged."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from fedlama.choices.codecs import Float32
from fedlama.errors import FedlamaError
from fedlama.flower.policy import Patience
from fedlama.flower.protocol import Answer, Failure, Introduction, Order
from fedlama.flower.server.nodes import Roster
from fedlama.flower.server.round import Exchanger
from fedlama.flower.transport import Delivery, Letter
from tests.fuzz.harness import Target
from tests.fuzz.targets.upload import CLIENT, ROUND, setting

_KINDS = ("good", "twice", "unasked", "round", "client", "stale", "mismatch", "failure", "introduction", "cut", "nan")


class _Hostile:
    """A channel whose nodes send what the input says, in its order, all at once."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self._tickets: list[str] = []
        self._introduced: list[Delivery] = []

    def nodes(self) -> tuple[int, ...]:
        return (10, 11)

    def push(self, letters: Sequence[Letter], lifetime: float) -> list[str]:
        tickets = [f"{len(self._tickets)}-{number}" for number, _ in enumerate(letters)]
        for ticket, letter in zip(tickets, letters, strict=True):
            if isinstance(letter.content, Order):
                self._tickets.append(ticket)
            else:
                self._introduced += [Delivery(ticket, Introduction(letter.node - 10, 6))] * 2  # every one comes twice
        return tickets

    def pull(self, tickets: Collection[str]) -> list[Delivery]:
        introduced, self._introduced = self._introduced, []
        if not self._tickets or not self._script:
            return introduced
        kind = self._script.pop(0)
        ticket = self._tickets[-1]
        answer = setting().answer
        content: Answer | Failure | Introduction = answer
        match kind:
            case "twice":
                return [Delivery(ticket, content), Delivery(ticket, content)]
            case "unasked":
                return [Delivery("unasked", content)]
            case "round":
                content = replace(answer, round_index=ROUND - 1)
            case "client":
                content = replace(answer, client=CLIENT - 1)
            case "stale" | "mismatch":
                content = replace(answer, status=kind)
            case "failure":
                content = Failure("crashed", final=False)
            case "introduction":
                content = Introduction(1, 6)
            case "cut":
                content = replace(answer, payload=answer.payload[:-1])
            case "nan":
                content = replace(answer, payload=answer.payload[:-4] + b"\x00\x00\xc0\x7f")
        return [Delivery(ticket, content)]


def _make(draw: Random) -> bytes:
    return json.dumps(draw.choices(_KINDS, k=draw.randrange(5))).encode()


def _read(data: bytes) -> None:
    try:
        script = json.loads(data)
    except (ValueError, RecursionError):
        script = []
    channel, given = _Hostile(script if isinstance(script, list) else []), setting()
    roster = Roster(channel, 2)
    exchanger = Exchanger(channel, roster, Patience(deadline=0.0, join=0.0, poll=0.0), given.layers, Float32())
    roster.online()
    exchange = exchanger.run(ROUND, [CLIENT], lambda _client, _full: given.order, ())
    assert list(exchange.receipts) == [CLIENT]


def refusal(script: Sequence[str]) -> str:
    """Return why a script of replies is refused; empty when one of them is taken in."""
    try:
        _read(json.dumps(list(script)).encode())
    except FedlamaError as error:
        return str(error)
    return ""


TARGET = Target("exchange", _make, _read)
