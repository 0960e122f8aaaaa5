"""A SuperNode that forks from a warm process: how it looks for work, sends replies and starts ClientApps."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedlama.flower.deploy import warm_node
from fedlama.flower.deploy.warm_node import Helper, Polling, Sending, _without_parent, serve, wait

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_the_node_looks_often_only_after_work() -> None:
    clock, pauses, messages, wakes = [0.0], list[float](), [None, 7, None], list[int]()
    polling = Polling(lambda: messages.pop(0), lambda: wakes.append(1), lambda: clock[0], pauses.append)
    assert polling.pull() is None
    polling.sleep(3)
    assert wakes == []
    assert polling.pull() == 7
    assert wakes == [1]
    polling.sleep(3)
    polling.sleep(0.1)
    for seconds in (2.0, 8.0, 25.0, 61.0):  # since the message
        clock[0] = seconds
        polling.sleep(3)
    assert pauses == pytest.approx([3, 0.3, 0.1, 0.3, 0.8, 1, 3])


def _taken_replies(state: Any) -> Any:  # noqa: ANN401  (Flower's own)
    """Take the replies that wait in a SuperNode's state; the method's name changed after Flower 1.40."""
    take = getattr(state, "get_messages_legacy", None) or state.get_messages
    return take(is_reply=True)


def test_a_reply_that_waits_is_sent_although_no_request_came() -> None:
    nodestate = pytest.importorskip("flwr.supernode.nodestate.in_memory_nodestate")
    state, polling = nodestate.InMemoryNodeState(None), Polling(lambda **_: None, lambda: None)

    def store(number: str, reply_to: str) -> None:
        metadata = SimpleNamespace(reply_to_message_id=reply_to, run_id=3, message_id=number)
        state.msg_store[number] = nodestate.MessageEntry(SimpleNamespace(metadata=metadata))

    assert polling.pull(state=state) is None
    store("request", "")
    assert polling.pull(state=state) is None  # a request that a ClientApp has not fetched yet
    store("reply", "request")
    assert polling.pull(state=state) == 0  # not None, so that Flower sends what waits
    assert [each.metadata.message_id for each in _taken_replies(state)] == ["reply"]
    assert polling.pull(state=state) is None


@pytest.mark.parametrize("dies", [True, False])
def test_a_reply_whose_client_app_died_is_given_up(
    dies: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its message is there, and none of its objects; Flower's own function waits for them without an end."""
    internal = pytest.importorskip("flwr.supernode.start_client_internal")
    nodestate = pytest.importorskip("flwr.supernode.nodestate.in_memory_nodestate")
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
    from flwr.supercore.object_store import ObjectStoreFactory

    from tests.flower.fake_grid import with_identity

    with_identity(monkeypatch)
    store = ObjectStoreFactory().store()
    state, pushed, looks = nodestate.InMemoryNodeState(store), list[str](), [3]
    asked = Message(RecordDict(), dst_node_id=5, message_type="train")
    asked.metadata.__dict__["_message_id"] = "request"
    reply = Message(RecordDict({"reply": ConfigRecord({"a": 1})}), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    objects = get_all_nested_objects(reply)
    state.store_message(reply)
    store.preregister(reply.metadata.run_id, get_object_tree(reply))

    def tasks(run_ids: list[int], statuses: tuple[str, ...]) -> list[str]:
        """A ClientApp that is alive for three looks, and then has handed its reply over, or has not."""
        assert run_ids == [reply.metadata.run_id]
        looks[0] -= 1
        if looks[0] == 0 and not dies:
            for number, each in objects.items():
                store.put(number, each.deflate())
        return ["task"] * (looks[0] > 0)

    monkeypatch.setattr(state, "get_tasks", tasks)
    monkeypatch.setattr(internal, "time", SimpleNamespace(sleep=lambda _: None))
    Sending(internal._push_messages).push(
        state=state,
        object_store=store,
        send=lambda *_: (set(objects), "session"),
        push_object=lambda *given: pushed.append(given[2]),
    )
    assert (len(pushed) == len(objects)) is not dies
    assert ("ended before it had handed its reply over" in caplog.text) is dies
    assert not _taken_replies(state)  # it is deleted, so that the next request is served


def test_the_parents_number_is_replaced() -> None:
    given = ["flwr-clientapp", "--token", "x", "--parent-pid", "5", "--insecure"]
    assert _without_parent(given) == ["flwr-clientapp", "--token", "x", "--insecure"]
    assert _without_parent(["--insecure"]) == ["--insecure"]


@needs_fork
def test_the_helper_is_forked_before_it_has_its_command_and_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(wakes: socket.socket) -> None:
        woken = select.select([wakes], [], [], 60.0)[0] == [wakes]
        (tmp_path / "command").write_text(json.dumps([sys.argv, woken]))

    monkeypatch.setattr(warm_node, "execute", execute)
    helper = Helper()
    assert not (tmp_path / "command").exists()
    helper.start(["flower-superexec", "--insecure"])
    helper.wake()
    assert os.wait()[1] == 0
    assert json.loads((tmp_path / "command").read_text()) == [["flower-superexec", "--insecure"], True]
    helper.wake()  # nobody is there any more
    helper._near.close()


def test_the_helper_waits_as_long_as_flower_wants_or_until_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, slept, ready = list[float](), list[float](), select.select

    def look(read: list[Any], write: list[Any], failed: list[Any], seconds: float) -> Any:  # noqa: ANN401
        waited.append(seconds)
        return ready(read, write, failed, 0.0)

    monkeypatch.setattr(warm_node, "select", SimpleNamespace(select=look))
    monkeypatch.setattr(warm_node, "time", SimpleNamespace(sleep=slept.append))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        wait(far, 0.2)  # nobody wakes it
        near.send(b"look")
        wait(far, 0.3)
        assert ready([far], [], [], 0.0)[0] == []  # the wake counts once
        assert slept == []
        near.close()  # the SuperNode has ended
        wait(far, 0.4)
    assert (waited, slept) == ([0.2, 0.3, 0.4], [0.4])


@needs_fork
def test_the_helper_of_a_node_that_does_not_start_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_node, "execute", lambda _: (tmp_path / "command").touch())
    reader, writer = os.pipe()
    node = os.fork()
    if node == 0:
        Helper()
        os._exit(0)
    os.close(writer)
    assert os.waitpid(node, 0)[1] == 0
    assert select.select([reader], [], [], 20.0)[0] == [reader]  # the helper closed the other end
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert not (tmp_path / "command").exists()


@needs_fork
def test_each_order_is_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Arguments arrive, a program that fails or exits ends only its child, and the end of orders ends the server."""

    def program() -> None:
        name = sys.argv[1]
        (tmp_path / name).write_text(f"{sys.argv[0]} {os.getppid()}")
        if name == "raises":
            raise ValueError("no data")
        if name == "exits":
            sys.exit(3)

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = os.fork()
    if server == 0:
        near.close()
        serve(far, program)
        os._exit(0)
    far.close()
    for name in ("raises", "exits", "works"):
        near.send(json.dumps(["flwr-clientapp", name]).encode())
    end = time.monotonic() + 20
    while not all((tmp_path / name).exists() for name in ("raises", "exits", "works")):
        assert time.monotonic() < end
        time.sleep(0.02)
    near.close()
    assert os.waitpid(server, 0)[1] == 0
    assert (tmp_path / "works").read_text() == f"flwr-clientapp {server}"
