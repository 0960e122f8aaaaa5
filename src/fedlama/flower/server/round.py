"""One round's exchange: send every client its order, wait as long as the rules say, ask again who is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedlama.choices.codecs import Codec
from fedlama.core.layers import Layers
from fedlama.errors import DataError, FedlamaError, cut
from fedlama.flower.policy import Patience
from fedlama.flower.protocol import Answer, Failure, Order
from fedlama.flower.server.nodes import Roster
from fedlama.flower.server.replies import Receipt, check
from fedlama.flower.transport import Channel, Letter

_LOG = logging.getLogger("fedlama.flower")
_TRIES = 10  # orders to one client in one round: what fails so often will fail again


@dataclass
class Exchange:
    """What a round's exchange brought.

    Attributes:
        sent: Every order that was sent, in this order; a client that was asked twice stands there twice.
        receipts: Accepted replies by client.
        missing: Clients without an accepted reply.
        incidents: What went wrong, one sentence each.
    """

    sent: list[Order] = field(default_factory=list)
    receipts: dict[int, Receipt] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    incidents: list[str] = field(default_factory=list)


class Exchanger:
    """Runs exchanges.

    Args:
        channel: How letters travel.
        roster: Who is where.
        patience: The rules of waiting.
        layers: The labelling.
        codec: How uploads are compressed.
    """

    def __init__(self, channel: Channel, roster: Roster, patience: Patience, layers: Layers, codec: Codec) -> None:
        self._channel, self._roster, self._patience = channel, roster, patience
        self._layers, self._codec = layers, codec

    def run(
        self, round_index: int, cohort: Sequence[int], order: Callable[[int, bool], Order], absent: Collection[int]
    ) -> Exchange:
        """Exchange one round's messages.

        Args:
            round_index: The round, from 0.
            cohort: Whom to ask.
            order: Makes a client's order; with True, one that brings the full model.
            absent: Clients that are not waited for: they missed a round and may still be away.

        Returns:
            What came of it.

        Raises:
            FedlamaError: Fewer replies than the rules demand.
        """
        return _Round(self, round_index, cohort, order, absent).to_end()


class _Round:
    """The moving parts of one exchange."""

    def __init__(
        self,
        owner: Exchanger,
        round_index: int,
        cohort: Sequence[int],
        order: Callable[[int, bool], Order],
        absent: Collection[int],
    ) -> None:
        self._channel, self._roster, self._patience = owner._channel, owner._roster, owner._patience
        self._layers, self._codec = owner._layers, owner._codec
        self._round, self._cohort, self._order = round_index, tuple(cohort), order
        self._open = set(cohort)  # neither answered nor given up
        self._absent, self._away = set(absent), frozenset(absent)
        self._full: set[int] = set()  # said that they need the full model
        self._waiting: dict[str, Order] = {}
        self._told: set[str] = set()
        self._result = Exchange()

    def to_end(self) -> Exchange:
        needed, end = self._patience.needed(len(self._cohort)), time.monotonic() + self._patience.deadline
        while True:
            self._send(end)
            self._receive()
            enough = len(self._result.receipts) >= needed
            if not (self._open - (self._absent if enough else set())):
                break
            if time.monotonic() >= end:
                self._note(f"the deadline of {self._patience.deadline:g} s has passed")
                break
            time.sleep(self._patience.poll)
        for client in sorted(self._open):
            self._note(f"client {client} did not answer")
        self._result.missing = set(self._cohort) - set(self._result.receipts)
        if not enough:
            raise FedlamaError(
                f"round {self._round}: {len(self._result.receipts)} of {len(self._cohort)} clients answered, "
                f"{needed} are needed ({'; '.join(self._result.incidents)}); nothing is lost: bring the clients back "
                "and give the same command again, or lower min_replies"
            )
        return self._result

    def _send(self, end: float) -> None:
        """Send orders to those who are open, online and not being waited for."""
        asked = {order.client for order in self._waiting.values()}
        idle = sorted(self._open - asked)
        if not idle:
            return
        online = self._roster.online()
        orders = [self._order(client, client in self._full) for client in idle if client in online]
        if not orders:
            return
        lifetime = max(end - time.monotonic(), 1.0) + 60.0
        tickets = self._channel.push([Letter(online[order.client], order) for order in orders], lifetime)
        for ticket, order in zip(tickets, orders, strict=True):
            if ticket:
                self._waiting[ticket] = order
                self._result.sent.append(order)
                self._absent.discard(order.client)  # it is back, so it is waited for

    def _receive(self) -> None:
        if not self._waiting:
            return
        for delivery in self._channel.pull(list(self._waiting)):
            order = self._waiting.pop(delivery.ticket, None)
            if order is None:  # a reply that comes twice, or was never asked for, counts for nothing
                continue
            content = delivery.content
            if isinstance(content, Answer):
                self._take(content, order)
            elif isinstance(content, Failure):
                self._note(f"client {order.client}: {content.reason}")
                self._absent |= {order.client} & self._away
                tries = sum(sent.client == order.client for sent in self._result.sent)
                if content.final or tries >= _TRIES:
                    self._open.discard(order.client)
            else:
                self._refuse(order, "the reply is no answer to an order")

    def _take(self, answer: Answer, order: Order) -> None:
        if answer.status == "stale" and order.client not in self._full:
            self._full.add(order.client)
            self._note(f"client {order.client} has lost its state and is sent the full model")
        elif answer.status != "done":
            self._refuse(order, cut(answer.detail) or "it needs the full model, which it was sent")
        else:
            try:
                self._result.receipts[order.client] = check(answer, order, self._layers, self._codec)
                self._open.discard(order.client)
            except DataError as error:
                self._refuse(order, str(error))

    def _refuse(self, order: Order, reason: str) -> None:
        self._open.discard(order.client)
        self._note(f"client {order.client}: reply refused: {reason}")

    def _note(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._result.incidents.append(sentence)
            _LOG.warning("round %d: %s", self._round, sentence)
