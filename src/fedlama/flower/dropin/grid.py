"""A Grid that asks a client again within the round, and looks for replies more often than Flower's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fedlama.flower.limits import LimitedReplies
from fedlama.flower.transport import flower_module, with_retries

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

Again = Callable[[Any, Any], Any]
"""Returns a message to send in place of a reply, from the first message and its reply; None to keep the reply."""
ReplyBytes = Callable[[Any], int]
"""Returns the bytes of arrays that the reply to a message may have."""

_UNAVAILABLE = 3  # Flower's code of a reply that cannot be had


class RetryingGrid:
    """Passes everything on to a Grid but :meth:`send_and_receive`.

    Args:
        grid: The Grid.
        again: Which replies are replaced by another message.
        reply_bytes: How large replies may be; larger ones are refused before they are fetched.
        poll: Seconds between two looks for replies; Flower's own loop waits 3.
    """

    def __init__(self, grid: Grid, again: Again, reply_bytes: ReplyBytes, poll: float) -> None:
        self._grid, self._again, self._reply_bytes, self._poll = grid, again, reply_bytes, poll
        self._limits = LimitedReplies(grid)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the Grid has)
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and return the replies that arrived within the time.

        Args:
            messages: The messages.
            timeout: Seconds; None waits for all replies.
        """
        waiting, replies = self._push(list(messages)), list[Any]()
        end = None if timeout is None else time.monotonic() + timeout
        while waiting and (end is None or time.monotonic() < end):
            for reply in self._pull(list(waiting)):
                ticket = reply.metadata.reply_to_message_id
                message = waiting.pop(ticket, None)
                if message is None:  # a reply that comes twice
                    continue
                if reason := self._limits.reason(ticket):
                    app = flower_module("app")
                    replies.append(app.Message(app.Error(_UNAVAILABLE, reason), reply_to=message))
                    continue
                more = self._again(message, reply)
                if more is None:
                    replies.append(reply)
                else:
                    waiting |= self._push([more])
            if waiting:
                time.sleep(self._poll)
        return replies

    def _pull(self, tickets: list[str]) -> list[Any]:
        return with_retries(lambda: self._grid.pull_messages(tickets))

    def _push(self, messages: list[Any]) -> dict[str, Any]:
        """Send messages; return them by their tickets, without those to nodes that are gone."""
        if not messages:
            return {}
        tickets = with_retries(lambda: self._grid.push_messages(messages))
        for ticket, message in zip(tickets, messages, strict=True):
            self._limits.allow(ticket, self._reply_bytes(message))
        return {ticket: message for ticket, message in zip(tickets, messages, strict=True) if ticket}
