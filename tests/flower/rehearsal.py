"""A channel inside one process: the nodes' side of a deployment by plain calls, with faults on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from fedlama.engines.api import EngineSetup
from fedlama.flower.client.respond import respond
from fedlama.flower.client.trainer import LoopLocal
from fedlama.flower.protocol import Answer, Failure, Introduction, Order
from fedlama.flower.transport import Delivery, Letter

Fault = Callable[[Order], str | None]
"""Tells what befalls an order: None, ``"lost"`` (nothing arrives), ``"mute"`` (trained, but the reply is lost),
``"crash"``, or the name of a way to spoil the reply."""


def no_fault(order: Order) -> str | None:
    """Nothing befalls anybody."""
    return None


class Rehearsal:
    """Nodes 100, 101, ... that serve the clients 0, 1, ...; every order is carried out when it is pushed.

    Args:
        work: Makes a client's fixed parts anew for each order, as a new process would.
        clients: Number of clients.
        folder: Where the clients keep their states.
        fault: What befalls each order.
    """

    def __init__(self, work: Callable[[], EngineSetup], clients: int, folder: Path, fault: Fault = no_fault) -> None:
        self._work, self._folder, self.fault = work, folder, fault
        self.online = {100 + client: client for client in range(clients)}
        self._replies: dict[str, Delivery] = {}
        self._count = 0
        self.orders: list[Order] = []
        self.answers: list[Answer] = []

    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.online))

    def path(self, client: int) -> Path:
        return self._folder / f"client-{client}.safetensors"

    def push(self, letters: Sequence[Letter], lifetime: float) -> list[str]:
        return [self._push(letter) for letter in letters]

    def pull(self, tickets: Collection[str]) -> list[Delivery]:
        ready = [ticket for ticket in sorted(tickets, reverse=True) if ticket in self._replies]  # not in client order
        return [self._replies.pop(ticket) for ticket in ready]

    def _push(self, letter: Letter) -> str:
        client = self.online.get(letter.node)
        if client is None:
            return ""
        self._count += 1
        ticket = f"{self._count:06d}"
        content = self._reply(client, letter.content) if isinstance(letter.content, Order) else None
        if not isinstance(letter.content, Order):
            content = Introduction(client, self._work().clients.samples(client))
        if content is not None:
            self._replies[ticket] = Delivery(ticket, content)
        return ticket

    def _reply(self, client: int, order: Order) -> Answer | Failure | None:
        assert order.client == client
        self.orders.append(order)
        what = self.fault(order)
        if what == "lost":
            return None
        if what == "crash":
            return Failure("ClientApp crashed", final=False)
        if what == "raise":
            return Failure("<class 'ValueError'>", final=True)
        answer = respond(order, LoopLocal(self._work(), client), self.path(client))
        self.answers.append(answer)
        if what == "mute":
            return None
        if what == "round":
            return replace(answer, round_index=order.round_index - 1)
        if what == "short":
            return replace(answer, payload=answer.payload[:-4])
        if what == "client":
            return replace(answer, client=client + 1)
        return answer
