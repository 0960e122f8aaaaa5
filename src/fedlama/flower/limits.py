"""A limit for each reply, before it is fetched: of its objects before any, and of its bytes after each of them.

Flower cuts an array into pieces of 5 MiB and stores each piece, array and record as an object. The SuperLink names a
reply's objects first, and the server of a run fetches them one by one. A reply with more objects than its request
allows is refused before the first is fetched; one with more bytes, at the object that exceeds them. So a node can make
the server hold one object too many, whose size a proxy before the SuperLink limits.

These replace a part of Flower's Grid that is not public. Where a version of Flower lacks it, a reply is checked after
it was fetched, as anywhere else.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

_LOG = logging.getLogger("fedlama.flower")
_PIECE = 5 * 2**20  # bytes of Flower's pieces of arrays
_OTHER_OBJECTS, _OTHER_BYTES = 64, 2**20  # records, heads of arrays, metrics of mods


@dataclass(frozen=True)
class ReplyLimit:
    """What a reply may take.

    Attributes:
        payload_bytes: Bytes of its arrays.
    """

    payload_bytes: int

    @property
    def objects(self) -> int:
        """The number of objects: the pieces of arrays, and others.

        >>> ReplyLimit(0).objects, ReplyLimit(12 * 2**20).objects
        (64, 67)
        """
        return _OTHER_OBJECTS + -(-self.payload_bytes // _PIECE)

    @property
    def total_bytes(self) -> int:
        """The bytes of all objects."""
        return self.payload_bytes + _OTHER_BYTES


class LimitedReplies:
    """The limits of a run's replies, enforced where Flower's Grid fetches them.

    Args:
        grid: The Grid.

    Attributes:
        is_active: Whether the Grid fetches replies over a network, by a client that this can wrap.
    """

    def __init__(self, grid: Any) -> None:  # noqa: ANN401  (Flower's own)
        self._limits: dict[str, ReplyLimit] = {}
        self._refused: dict[str, str] = {}
        try:
            client = grid._runtime_client
            self._stand_in: _StandIn | None = _StandIn(client, grid, self)
            grid._client = self._stand_in
        except (AttributeError, ImportError):
            self._stand_in = None
            if hasattr(grid, "close"):  # it has a connection
                _LOG.warning("this version of Flower has other parts; replies are checked after they were fetched")
        self.is_active = self._stand_in is not None

    def allow(self, ticket: str, payload_bytes: int) -> None:
        """Set the limit of a reply.

        Args:
            ticket: Of its request.
            payload_bytes: Bytes that its arrays may have.
        """
        if self.is_active and ticket:
            self._limits[ticket] = ReplyLimit(payload_bytes)

    def limit(self, ticket: str) -> ReplyLimit | None:
        """Return the limit of a reply; None where it has none."""
        return self._limits.get(ticket)

    def refuse(self, ticket: str, reason: str) -> None:
        """Note why a reply was refused."""
        self._refused[ticket] = reason

    def reason(self, ticket: str) -> str:
        """Return why a reply was refused, and forget its limit; empty where it was not.

        Args:
            ticket: Of the request of a reply that has been fetched.
        """
        self._limits.pop(ticket, None)
        return self._refused.pop(ticket, "")


@dataclass
class _Arriving:
    """A reply whose objects are being fetched.

    Attributes:
        number: The number of its message.
        limit: Its limit.
        objects: Object to how often it is still to be fetched.
        left: Bytes that it may still take.
        is_refused: Whether it takes more.
    """

    number: str
    limit: ReplyLimit
    objects: Counter[str]
    left: int
    is_refused: bool = False


class _StandIn:
    """Wraps the client by which a Grid calls the SuperLink.

    A Grid fetches the objects of one reply after another, in the order of the list. Equal objects are stored once, so
    several replies may name the same ones; an object counts for the first of them that still needs it.

    Args:
        client: The client.
        grid: Its Grid.
        limits: The limits.
    """

    def __init__(self, client: Any, grid: Any, limits: LimitedReplies) -> None:  # noqa: ANN401  (Flower's own)
        messages = importlib.import_module("flwr.proto.message_pb2")
        self._missing: Any = messages.PullObjectResponse
        self._confirmation: Any = messages.ConfirmMessageReceivedRequest
        self._pull_messages, self._pull_object = client.PullMessages, client.PullObject
        self._client, self._grid, self._limits = client, grid, limits
        self._lock = threading.Lock()
        self._arriving: dict[str, _Arriving] = {}  # by the ticket of the request
        self._known: set[str] = set()  # their objects

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the client has)
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:  # noqa: ANN401, N802  (Flower's own)
        """Fetch the lists of objects of replies, and refuse those that are too long."""
        response = self._pull_messages(request)
        self._arriving, self._known = {}, set()
        for message, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            ticket = message.metadata.reply_to_message_id
            limit, objects = self._limits.limit(ticket), Counter(_objects(tree))
            if limit is None:
                continue
            self._known |= objects.keys()
            self._arriving[ticket] = _Arriving(message.metadata.message_id, limit, objects, limit.total_bytes)
            if objects.total() > limit.objects:
                self._refuse(ticket, f"it has {objects.total()} objects, expected at most {limit.objects}")
                tree.ClearField("children")  # so the Grid asks for the message alone, which is refused below
        return response

    def PullObject(self, request: Any) -> Any:  # noqa: ANN401, N802  (Flower's own)
        """Fetch an object, unless its reply is refused; then the Grid learns that there is none."""
        if request.object_id not in self._known:
            return self._pull_object(request)
        with self._lock:
            ticket = self._reply_with(request.object_id)
            if not ticket:
                return self._missing(object_found=False)
            reply = self._arriving[ticket]
            reply.objects[request.object_id] -= 1
        response = self._pull_object(request)
        with self._lock:
            reply.objects[request.object_id] += not response.object_available  # the Grid asks for it again
            reply.left -= len(response.object_content)
            exceeds = reply.left < 0 and not reply.is_refused
        if exceeds:
            most = reply.limit.total_bytes
            self._refuse(ticket, f"it has more bytes than the request asks for, expected at most {most}")
        return self._missing(object_found=False) if reply.is_refused else response

    def _reply_with(self, number: str) -> str:
        """Return the ticket of the reply for which an object is fetched now; empty where it is refused.

        A Grid that gives a reply up may have asked for more of it, so one that needs an object no more can follow.
        """
        named = [t for t, reply in self._arriving.items() if number in reply.objects and not reply.is_refused]
        return next((t for t in named if self._arriving[t].objects[number] > 0), named[0] if named else "")

    def _refuse(self, ticket: str, reason: str) -> None:
        """Refuse a reply, and let the SuperLink drop what it has of it."""
        reply = self._arriving[ticket]
        reply.is_refused = True
        self._limits.refuse(ticket, f"reply refused before it was fetched: {reason}")
        number = reply.number
        try:
            run_id = self._grid.run.run_id
            self._client.ConfirmMessageReceived(
                self._confirmation(node=self._grid.node, run_id=run_id, message_object_id=number)
            )
        except Exception as error:  # errors of several HTTP libraries; the SuperLink drops it when the run ends
            _LOG.warning("the SuperLink keeps a refused reply until the run ends (%s)", error)


def _objects(tree: Any) -> list[str]:  # noqa: ANN401  (Flower's own)
    """Return the numbers of all objects of a tree, as often as they are in it."""
    objects, trees = list[str](), [tree]
    while trees:
        current = trees.pop()
        objects.append(current.object_id)
        trees.extend(current.children)
    return objects
