"""Replies that are larger than their requests allow: Flower's own Grid does not fetch them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedlama.flower.dropin.grid import RetryingGrid
from fedlama.flower.limits import LimitedReplies
from fedlama.flower.protocol import ClientInfo, Failure, InfoRequest, Outgoing
from fedlama.flower.transport import GridChannel, info_records
from tests.flower.fake_grid import with_identity

MIB = 2**20


class SuperLink:
    """The calls of a ServerApp to a SuperLink whose nodes reply at once."""

    def __init__(self) -> None:
        self.records: dict[int, RecordDict] = {}  # node to what it replies
        self.fetched: list[tuple[str, int]] = []
        self.confirmed: list[str] = []
        self._pushed: dict[str, int] = {}
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def PushMessages(self, request: Any) -> Any:  # noqa: ANN401, N802  (Flower's, as below)
        for message in request.messages_list:
            self._pushed[message.metadata.message_id] = message.metadata.dst_node_id
        return PushAppMessagesResponse(message_ids=[m.metadata.message_id for m in request.messages_list])

    def PushObject(self, request: Any) -> Any:  # noqa: ANN401, N802
        raise AssertionError("it asks for no object")

    def PullMessages(self, request: Any) -> Any:  # noqa: ANN401, N802
        replies = [self._reply(ticket) for ticket in request.message_ids]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(reply)) for reply in replies],
            message_object_trees=[get_object_tree(reply) for reply in replies],
        )

    def PullObject(self, request: Any) -> Any:  # noqa: ANN401, N802
        content = self._objects[request.object_id]
        with self._lock:
            self.fetched.append((request.object_id, len(content)))
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: ANN401, N802
        self.confirmed.append(request.message_object_id)

    def _reply(self, ticket: str) -> Message:
        node = self._pushed[ticket]
        asked = Message(RecordDict(), dst_node_id=node, message_type="query")
        asked.metadata.__dict__["_message_id"] = ticket
        reply = Message(self.records[node], reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = node
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self._objects |= {number: each.deflate() for number, each in get_all_nested_objects(reply).items()}
        return reply


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    with_identity(monkeypatch)
    return SuperLink()


def grid_of(link: SuperLink) -> HttpGrid:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="a token")
    grid._client = link  # type: ignore[assignment]
    grid.set_run(Run.create_empty(7))
    return grid


def info(client: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> RecordDict:
    """A node's reply with arrays that nobody asked for."""
    records = info_records(ClientInfo(client, 10))
    records["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return records


def numbers(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Bytes that differ from piece to piece."""
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


def replies(link: SuperLink, reply_bytes: int = 0) -> dict[int, Any]:
    """What a channel gives for each node, in the order of the nodes."""
    channel, nodes = GridChannel(grid_of(link)), sorted(link.records)
    tickets = channel.push([Outgoing(node, InfoRequest(), reply_bytes) for node in nodes], 60.0)
    received = {each.ticket: each.content for each in channel.pull(tickets)}
    return {node: received[ticket] for node, ticket in zip(nodes, tickets, strict=True)}


def test_a_reply_with_too_many_objects_is_refused_before_any_is_fetched(link: SuperLink) -> None:
    link.records[5] = info(0, {f"a{number}": numbers(4, number) for number in range(40)})
    # 80 objects of arrays, their record, two records, the message and its content.
    says = "reply refused before it was fetched: it has 85 objects, expected at most 64"
    assert replies(link) == {5: Failure(says, final=True)}
    assert link.fetched == []
    assert len(link.confirmed) == 1  # the SuperLink drops it


def test_a_reply_with_too_many_bytes_is_fetched_no_further_than_the_limit(link: SuperLink) -> None:
    """Three arrays of 3 MiB where 1 MiB and the payload of 2 MiB are allowed: the second one exceeds it."""
    link.records[5] = info(0, {name: numbers(3 * MIB, seed) for seed, name in enumerate("abc")})
    (failure,) = replies(link, 2 * MIB).values()
    assert failure.reason == (
        f"reply refused before it was fetched: it has more bytes than the request asks for, expected at most {3 * MIB}"
    )
    assert failure.final
    assert sum(size for _, size in link.fetched) < 3 * MIB + 2 * 3.1 * MIB  # two are fetched at a time
    assert len(link.confirmed) == 1


def test_what_is_allowed_arrives(link: SuperLink) -> None:
    link.records[5] = info(3, {"payload": numbers(12 * MIB)})
    assert replies(link, 12 * MIB) == {5: ClientInfo(3, 10)}
    assert len(link.confirmed) == 1


@pytest.mark.parametrize("extra", [0, 40])
def test_a_refused_reply_takes_nothing_from_the_others(link: SuperLink, extra: int) -> None:
    """Node 5 names the objects of node 6's reply in its own, which is refused, for its objects or its bytes."""
    shared, more = numbers(2 * MIB), {f"m{n}": numbers(4, n) for n in range(extra)}
    link.records[5] = info(0, {"payload": shared, "more": numbers(3 * MIB, 9), **more})
    link.records[6] = info(1, {"payload": shared})
    received = replies(link, 2 * MIB)
    assert received[6] == ClientInfo(1, 10)
    assert received[5].final
    assert "reply refused before it was fetched" in received[5].reason


def test_an_app_with_a_flower_strategy_is_refused_alike(link: SuperLink) -> None:
    link.records[5] = info(0, {f"a{number}": numbers(4, number) for number in range(40)})
    link.records[6] = info(1, {})
    grid = RetryingGrid(grid_of(link), lambda *_: None, lambda _: 0, 0.01)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in (5, 6)]
    received = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(asked, timeout=10.0)}
    assert received[5].error.code == 3
    assert "it has 85 objects, expected at most 64" in received[5].error.reason
    assert "client" in received[6].content


def test_a_grid_of_another_version_works_as_flowers_own(caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        def close(self) -> None: ...

    limits = LimitedReplies(Other())
    limits.allow("ticket", 0)
    assert not limits.is_active
    assert limits.reason("ticket") == ""
    assert "this version of Flower has other parts" in caplog.text
