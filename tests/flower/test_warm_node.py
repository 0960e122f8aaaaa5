"""A SuperNode that forks from a warm process: the same bits as Flower's own, in less time."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedlama.flower.deploy.warm_node import Polling, _without_parent, serve
from fedlama.runs.network_log import NAME, read_log


def test_the_node_looks_often_only_after_work() -> None:
    clock, pauses, messages = [0.0], list[float](), [None, 7, None]
    polling = Polling(lambda: messages.pop(0), lambda: clock[0], pauses.append)
    assert polling.pull() is None
    polling.sleep(3)
    assert polling.pull() == 7
    polling.sleep(3)
    polling.sleep(0.1)
    clock[0] = 59.0
    polling.sleep(3)
    clock[0] = 61.0
    polling.sleep(3)
    assert pauses == [3, 0.3, 0.1, 0.3, 3]


def test_a_reply_that_waits_is_sent_although_no_request_came() -> None:
    nodestate = pytest.importorskip("flwr.supernode.nodestate.in_memory_nodestate")
    state, polling = nodestate.InMemoryNodeState(None), Polling(lambda **_: None)

    def store(number: str, reply_to: str) -> None:
        metadata = SimpleNamespace(reply_to_message_id=reply_to, run_id=3, message_id=number)
        state.msg_store[number] = nodestate.MessageEntry(SimpleNamespace(metadata=metadata))

    assert polling.pull(state=state) is None
    store("request", "")
    assert polling.pull(state=state) is None  # a request that a ClientApp has not fetched yet
    store("reply", "request")
    assert polling.pull(state=state) == 0  # not None, so that Flower sends what waits
    assert [each.metadata.message_id for each in state.get_messages_legacy(is_reply=True)] == ["reply"]
    assert polling.pull(state=state) is None


def test_the_parents_number_is_replaced() -> None:
    given = ["--token", "x", "--parent-pid", "5", "--insecure"]
    assert _without_parent(given) == ["--token", "x", "--insecure"]
    assert _without_parent(["--insecure"]) == ["--insecure"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
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
        near.send(json.dumps([name]).encode())
    end = time.monotonic() + 20
    while not all((tmp_path / name).exists() for name in ("raises", "exits", "works")):
        assert time.monotonic() < end
        time.sleep(0.02)
    near.close()
    assert os.waitpid(server, 0)[1] == 0
    assert (tmp_path / "works").read_text() == f"flwr-clientapp {server}"


@pytest.mark.slow
def test_warm_nodes_give_the_bits_of_the_loop_engine_in_less_time(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from tests.flower.live import Live, assert_same_folders, small
    from tests.flower.test_deployment import in_loop

    given = small("partition.clients=2", "local_steps=16", "strategy.base_interval=2")
    seconds: dict[str, float] = {}
    for kind in ("warm", "cold"):
        with Live(tmp_path / kind, nodes=0) as live:
            for number in range(2):
                live.services.start_node(number, port=live.counter.port, warm=kind == "warm")
            folder = live.finish(live.submit(given, kind))
            log = read_log(folder / NAME)
        assert_same_folders(folder, in_loop(given, tmp_path / f"loop-{kind}"))
        assert not any(line["incidents"] for line in log.values())
        seconds[kind] = statistics.median(float(line["seconds"]) for line in log.values())
    print(seconds)
    assert seconds["warm"] < 0.6 * seconds["cold"]
