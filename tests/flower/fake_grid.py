"""A Grid inside one process whose nodes call a ClientApp as Flower does, with faults on demand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

Fault = Callable[[Message, int], str | None]
"""Names the fault of a message to a client: None, ``"lost"``, ``"crash"``, or ``"mute"`` (done, but no reply comes)."""


def no_fault(message: Message, client: int) -> None:
    """No message fails."""


def with_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the process of a run, which Flower asks for its ids when a message is made."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def array_bytes(message: Message) -> int:
    """The bytes of the values in a message: of our payloads, or of an app's own arrays without NumPy's headers."""
    arrays = [array for record in message.content.array_records.values() for array in record.values()]
    fields = [value for record in message.content.config_records.values() for value in record.values()]
    short = [value for value in fields if isinstance(value, bytes)]
    return sum(array.numpy().nbytes for array in arrays) + sum(map(len, short))


class FakeGrid:
    """Nodes 100, 101, ... with the partition-ids 0, 1, ...; a message is carried out when it is pushed.

    Args:
        app: Makes the ClientApp for each message, as a new process would.
        clients: Number of nodes.
        folder: For the nodes' states.
        run_config: The run's configuration.
    """

    def __init__(
        self, app: Callable[[], ClientApp], clients: int, folder: Path, run_config: dict[str, Any] | None = None
    ) -> None:
        self._app, self._folder, self._run_config = app, folder, run_config or {}
        self.online = {100 + client: client for client in range(clients)}
        self.fault: Fault = no_fault
        self.node_config: dict[int, dict[str, Any]] = {}  # client to further keys of its node's configuration
        self.sent: list[Message] = []
        self.replies: list[Message] = []
        self._waiting: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return list(reversed(self.online))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, tickets: Iterable[str]) -> list[Message]:
        ready = [ticket for ticket in sorted(tickets, reverse=True) if ticket in self._waiting]  # not in client order
        return [self._waiting.pop(ticket) for ticket in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(list(messages)))

    def bytes_of(self, kind: str) -> tuple[int, int]:
        """Bytes of arrays to the nodes and from them, in messages of a type, without questions who serves whom."""
        ids = {message.metadata.message_id: message.metadata.message_type for message in self.sent}
        down = sum(array_bytes(message) for message in self.sent if message.metadata.message_type == kind)
        up = sum(array_bytes(r) for r in self.replies if ids[r.metadata.reply_to_message_id] == kind)
        return down, up

    def _push(self, message: Message) -> str:
        client = self.online.get(message.metadata.dst_node_id)
        if client is None:
            return ""
        ticket = f"{len(self.sent):06d}"
        message.metadata.__dict__["_message_id"] = ticket
        self.sent.append(copy.deepcopy(message))
        fault = self.fault(message, client)
        if fault == "lost":
            return ticket
        if fault == "crash":
            self._waiting[ticket] = Message(Error(8, "ClientApp stopped responding."), reply_to=message)
            return ticket
        node = {"partition-id": client, "state-dir": str(self._folder), **self.node_config.get(client, {})}
        context = Context(1, message.metadata.dst_node_id, node, RecordDict(), dict(self._run_config))
        try:
            reply = self._app()(copy.deepcopy(message), context)
        except Exception as error:  # as Flower does
            reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
        if fault != "mute":
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
            self.replies.append(copy.deepcopy(reply))
            self._waiting[ticket] = reply
        return ticket
