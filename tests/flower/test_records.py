"""Requests and replies as Flower's records, other versions of the protocol, and the byte counter."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedlama.core.scores import Score
from fedlama.errors import DataError
from fedlama.flower.deploy.byte_counter import ByteCounter
from fedlama.flower.protocol import (
    PROTOCOL,
    ClientInfo,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    SecureReply,
    SecureRequest,
    TrainReply,
    TrainRequest,
)

REQUEST = TrainRequest("run", "print", 3, 2, -1, 6, 18, (0, 2), (), (1,), True, b"payload")
REPLY = TrainReply("done", 3, 2, 3, True, b"up", b"", "")
EVALUATE = EvaluateRequest("print", 3, 2, b"payload")
SCORE = Score(0.1 + 0.2, {"auc": 0.75, "perplexity": float("inf")}, "auc", "higher")


def received(records: object) -> object:
    """What the server makes of a node's reply."""
    from fedlama.flower.transport import _content

    return _content(SimpleNamespace(has_error=lambda: False, content=records))  # type: ignore[arg-type]


def test_requests_and_replies_survive_the_records() -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from fedlama.flower.transport import (
        evaluate_records,
        evaluated_records,
        info_records,
        read_evaluate,
        read_reply,
        read_request,
        read_secure,
        refusal_records,
        reply_records,
        request_records,
        secure_records,
        secured_records,
    )

    assert read_request(request_records(REQUEST)) == REQUEST
    assert read_reply(reply_records(REPLY)) == REPLY
    assert received(reply_records(REPLY)) == REPLY
    assert read_evaluate(evaluate_records(EVALUATE)) == EVALUATE
    for length in (0, 2**18, 2**18 + 1, 3 * 2**18):
        longer = replace(REQUEST, payload=bytes(range(256)) * (length // 256) + b"x" * (length % 256), shares=b"sealed")
        records = request_records(longer)
        assert ("payloads" in records.array_records) is (length > 2**18)
        assert ("payloads" in records.config_records) is (length <= 2**18)
        assert read_request(records) == longer
    masked = replace(REQUEST, agreement="a0", weight=1 / 3, members=(2, 3, 5), shares=b"sealed")
    assert read_request(request_records(masked)) == masked
    assert received(reply_records(replace(REPLY, masked_loss=b"16"))) == replace(REPLY, masked_loss=b"16")
    for request in (
        SecureRequest("a0", "keys", 3, 2, b"empty", rounds=8),
        SecureRequest("a0", "unmask", 3, 2, b"", (2, 3, 5), 8, 2, (2, 5)),
    ):
        assert read_secure(secure_records(request)) == request
    for reply in (SecureReply("a0", "shares", 3, 2, b"sealed"), SecureReply("a0", "keys", 3, 2, detail="no disk")):
        assert received(secured_records(reply)) == reply
    for score in (SCORE, None):
        assert received(reply_records(replace(REPLY, score=score))) == replace(REPLY, score=score)
        evaluated = EvaluateReply(3, 1, score, "" if score else "no test set")
        assert received(evaluated_records(evaluated)) == evaluated
    assert received(info_records(ClientInfo(3, 40, has_test_set=True))) == ClientInfo(3, 40, has_test_set=True)
    assert received(info_records(ClientInfo(3, 40))) == ClientInfo(3, 40)
    assert received(refusal_records("no data here")) == Failure("no data here", final=True)
    assert received(refusal_records("")) == Failure("the node refused without a reason; see its log", final=True)
    with pytest.raises(DataError, match="is not a training request"):
        read_request(reply_records(REPLY))
    with pytest.raises(DataError, match="is not a training reply"):
        read_reply(request_records(REQUEST))


def test_a_payload_of_another_type_is_refused() -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from flwr.app import ConfigRecord

    from fedlama.flower.transport import reply_records

    for value in ("text", 3, [1, 2]):
        records = reply_records(REPLY)
        records["payloads"] = ConfigRecord({"payload": value})
        content = received(records)
        assert isinstance(content, Failure)
        assert content.reason == (
            "reply refused: the message is not a training reply (payload is not bytes); install the same version of "
            "fedlama on the server and on all nodes"
        )


def test_clients_that_get_the_same_bytes_share_one_object() -> None:
    """Requests differ in the client's number; the SuperLink stores their payload once."""
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from fedlama.flower.transport import request_records

    for payload in (b"payload", b"x" * 2**20):
        first, second = (request_records(replace(REQUEST, client=client, payload=payload)) for client in (0, 1))
        assert first["payloads"].object_id == second["payloads"].object_id
        assert first["request"].object_id != second["request"].object_id


@pytest.mark.parametrize(
    "change",
    [
        {"primary": "f1"},
        {"direction": "up"},
        {"names": ["auc"]},
        {"names": ["auc", "auc"]},
        {"names": ["auc", "\x1b[31mred"]},
        {"names": ["auc", "x" * 101]},
        {"names": [f"m{i}" for i in range(101)], "values": [0.5] * 101},
        {"values": [1, 2]},
        {"loss": "0.5"},
    ],
)
def test_a_score_of_a_hostile_node_is_refused(change: dict[str, Any]) -> None:
    """Its texts are shown in terminals and reports, and its numbers are compared with those of other clients."""
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from flwr.app import ConfigRecord

    from fedlama.flower.transport import evaluated_records

    records = evaluated_records(EvaluateReply(3, 1, SCORE))
    assert isinstance(received(records), EvaluateReply)
    records["score"] = ConfigRecord({**records.config_records["score"], **change})
    content = received(records)
    assert isinstance(content, Failure)
    assert content.final
    assert "the score is not a loss and metrics with their names" in content.reason


def test_another_version_of_the_protocol_is_refused_by_both_sides() -> None:
    """The first version wrote the records "introduction" and "fields", and no version."""
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    from fedlama.flower.transport import check_info_request, read_request, request_records

    says = "speaks version 1 of fedlama's protocol, this server version 7; install the same version"
    introduction = RecordDict({"introduction": ConfigRecord({"client": 3, "samples": 40})})
    content = received(introduction)
    assert isinstance(content, Failure)
    assert f"the node {says}" in content.reason
    order = RecordDict({"fields": ConfigRecord({"run": "run"}), "payloads": ArrayRecord({})})
    for read in (read_request, check_info_request):
        with pytest.raises(DataError, match="the server speaks version 1 of fedlama's protocol, this node version 7"):
            read(order if read is read_request else RecordDict({}))
    newer = request_records(REQUEST)
    newer["fedlama"]["protocol"] = PROTOCOL + 1  # type: ignore[index]
    with pytest.raises(DataError, match="version 8 of fedlama's protocol, this node version 7"):
        read_request(newer)


def test_the_byte_counter_counts_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"x" * 700)

        thread = threading.Thread(target=echo)
        thread.start()
        with ByteCounter(server.getsockname()[1]) as counter:
            with socket.create_connection(("127.0.0.1", counter.port)) as client:
                client.sendall(b"y" * 300)
                received = b""
                while len(received) < 700:
                    received += client.recv(1 << 16)
            thread.join(10)
        assert (counter.up, counter.down) == (300, 700)
