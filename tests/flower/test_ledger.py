"""The ledger of a deployment equals the bytes that were packed, message by message, also when something fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlama import AllClients, Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals, Float16, RoundRecord
from fedlama.flower.protocol import TrainReply, TrainRequest
from tests.flower.cases import QUICK, deployed, federation, in_process
from tests.flower.in_process import InProcessChannel

CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": FedAvg(2)},
    "fedlama": {"strategy": FedLAMA(2, 3)},
    "fedlama, everyone": {"strategy": FedLAMA(2, 3), "sampler": AllClients(), "evaluate_every": 2},
    "fedluar": {"strategy": FedLUAR(2, 1)},
    "fixed": {"strategy": FixedIntervals(2, {"0.weight": 3, "*": 1})},
    "cyclic": {"strategy": Cyclic(2)},
    "half precision": {"codec": Float16()},
}


def direction_bytes(record: RoundRecord, direction: str) -> int:
    """Bytes of one direction in a round's transfers."""
    return sum(transfer.total_bytes for transfer in record.transfers if transfer.direction == direction)


def assert_ledger_is_what_was_packed(record: RoundRecord, channel: InProcessChannel) -> None:
    """Compare a round's transfers with the requests and the accepted replies."""
    requests = [request for request in channel.requests if request.round_index == record.round_index]
    replies = [reply for reply in channel.replies if reply.round_index == record.round_index]
    done = {reply.client: reply for reply in replies if reply.status == "done"}
    assert direction_bytes(record, "down") == sum(len(request.payload) for request in requests)
    assert direction_bytes(record, "up") == sum(len(reply.payload) for reply in done.values())
    assert direction_bytes(record, "evaluation") == sum(len(reply.evaluation) for reply in done.values())
    sent_to = [client for t in record.transfers if t.direction == "down" for client in t.clients]
    assert sorted(sent_to) == sorted(request.client for request in requests)


@pytest.mark.selection
@pytest.mark.parametrize("aggregation", ["models", "sums"])
@pytest.mark.parametrize("name", CASES)
def test_every_round(name: str, aggregation: str, tmp_path: Path) -> None:
    given = federation(**CASES[name])
    channel = in_process(given, tmp_path)
    run = deployed(given, channel, aggregation=aggregation)
    for _ in range(given.budget.rounds):
        assert_ledger_is_what_was_packed(run.advance(), channel)


def test_requests_that_failed_and_clients_that_lost_their_state(tmp_path: Path) -> None:
    """Client 1 fails twice in round 1, client 3 loses its file before round 2: both are sent more than once."""
    given = federation(strategy=FedLAMA(2, 3), sampler=AllClients(), local_steps=12)
    failures = ["crash", "crash"]

    def fault(request: TrainRequest) -> str | None:
        return failures.pop() if (request.client, request.round_index) == (1, 1) and failures else None

    channel = in_process(given, tmp_path, fault)
    run = deployed(given, channel, QUICK)
    asked = {}
    for round_index in range(given.budget.rounds):
        if round_index == 2:
            channel.path(3).unlink()
        record = run.advance()
        assert_ledger_is_what_was_packed(record, channel)
        asked[round_index] = [r.client for r in channel.requests if r.round_index == round_index]
    assert sorted(asked[1]) == [0, 1, 1, 1, 2, 3, 4]
    assert sorted(asked[2]) == [0, 1, 2, 3, 3, 4]


def test_a_reply_that_is_refused_does_not_count_as_an_upload(tmp_path: Path) -> None:
    given = federation(strategy=FedLAMA(2, 3), sampler=AllClients(), local_steps=12)
    channel = in_process(given, tmp_path, lambda r: "short" if (r.client, r.round_index) == (2, 1) else None)
    policy = QUICK.__class__(deadline=3.0, join=1.0, poll=0.01, min_replies=0.5)
    run = deployed(given, channel, policy)
    run.advance()
    record = run.advance()
    accepted: list[TrainReply] = [r for r in channel.replies if r.round_index == 1 and r.client != 2]
    assert direction_bytes(record, "up") == sum(len(reply.payload) for reply in accepted)
    assert {client for t in record.transfers if t.direction == "up" for client in t.clients} == {0, 1, 3, 4}
