"""Orders and answers as Flower's records, and the relay that counts."""

from __future__ import annotations

import socket
import threading

import pytest

from fedlama.errors import DataError
from fedlama.flower.deploy.byte_counter import Relay
from fedlama.flower.protocol import Answer, Order

ORDER = Order("run", "print", 3, 2, -1, 6, 18, (0, 2), (), (1,), True, b"payload")
ANSWER = Answer("done", 3, 2, 3, True, b"up", b"", "")


def test_orders_and_answers_survive_the_records() -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from flwr.app import RecordDict

    from fedlama.flower.transport import answer_records, order_records, read_answer, read_order

    assert read_order(order_records(ORDER)) == ORDER
    assert read_answer(answer_records(ANSWER)) == ANSWER
    with pytest.raises(DataError, match="is no order"):
        read_order(RecordDict({}))
    with pytest.raises(DataError, match="is no answer"):
        read_answer(order_records(ORDER))


def test_the_relay_counts_what_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"x" * 700)

        thread = threading.Thread(target=echo)
        thread.start()
        with Relay(server.getsockname()[1]) as relay:
            with socket.create_connection(("127.0.0.1", relay.port)) as client:
                client.sendall(b"y" * 300)
                received = b""
                while len(received) < 700:
                    received += client.recv(1 << 16)
            thread.join(10)
        assert (relay.up, relay.down) == (300, 700)
