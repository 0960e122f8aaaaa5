"""A deployment with a codec: the same bits and bytes as a simulation, also after lost replies and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.choices.codecs import Codec
from fedlama.flower.protocol import Failure, TrainReply, TrainRequest
from tests.codecs.cases import CODECS
from tests.flower.cases import assert_same_bits, deployed, federation, in_process
from tests.flower.in_process import InProcessChannel

EVERYONE: dict[str, Any] = {"sampler": fl.AllClients()}


@pytest.mark.selection
@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("strategy", [fl.FedLAMA(2, 3), fl.FedLUAR(2, 1), fl.Cyclic(2)], ids=lambda s: s.name)
def test_same_bits_and_bytes_as_loop(codec: Codec, strategy: Any, tmp_path: Path) -> None:  # noqa: ANN401
    given = federation(codec=codec, strategy=strategy, **EVERYONE)
    channel = in_process(given, tmp_path)
    result = deployed(given, channel).to_end([])
    assert_same_bits(result, given.run())
    up = sum(transfer.total_bytes for transfer in result.ledger.transfers if transfer.direction != "down")
    assert up == sum(len(reply.payload) + len(reply.evaluation) for reply in channel.replies)
    assert result.ledger.total_bytes("down") == sum(len(request.payload) for request in channel.requests)


def test_new_cohorts_and_sums(tmp_path: Path) -> None:
    given = federation(codec=fl.Differences(4))
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())
    other = tmp_path / "sums"
    result = deployed(given, in_process(given, other), aggregation="sums").to_end([])
    for ours, theirs in zip(result.rounds, given.run().rounds, strict=True):
        for layer, record in theirs.layers.items():
            if record.discrepancy is not None:
                assert ours.layers[layer].discrepancy == pytest.approx(record.discrepancy, rel=1e-4, abs=1e-12)


class LosesReplies(InProcessChannel):
    """Trains, and loses the first reply to a third of the requests."""

    lost: set[tuple[int, int]] = set()  # noqa: RUF012  (of one test)

    def _reply(self, client: int, request: TrainRequest) -> TrainReply | Failure | None:
        reply, key = super()._reply(client, request), (request.round_index, client)
        if sum(key) % 3 or key in self.lost:
            return reply
        self.lost.add(key)
        return Failure("the connection was lost", final=False)


def test_a_reply_that_is_sent_again_is_the_same(tmp_path: Path) -> None:
    """The client writes it again from its file, with the codec's state of that time, and keeps one new state."""
    given = federation(codec=fl.Differences(2), **EVERYONE)
    channel = LosesReplies(given.engine_setup, 5, tmp_path)
    result, expected = deployed(given, channel).to_end([]), given.run()
    assert sum(reply.replayed for reply in channel.replies) == len(channel.lost) > 5
    for name, value in expected.model.items():
        assert torch.equal(result.model[name], value), name


def test_a_restarted_server_continues_bit_for_bit(tmp_path: Path) -> None:
    given = federation(codec=fl.Differences(1), **EVERYONE)
    channel = in_process(given, tmp_path)
    first = deployed(given, channel)
    before = [first.advance() for _ in range(2)]
    snapshot = first.state_dict()
    first.advance()  # lost with the server: its clients have trained this round, and send it again
    second = deployed(given, channel)
    second.load_state_dict(snapshot, before)
    assert_same_bits(second.to_end([], before), given.run())


def test_a_client_that_lost_its_state_gets_values(tmp_path: Path) -> None:
    given = federation(codec=fl.Differences(4), strategy=fl.FedAvg(2), **EVERYONE)
    channel = in_process(given, tmp_path)
    run = deployed(given, channel)
    run.advance()
    channel.path(1).unlink()
    run.advance()
    asked = [request for request in channel.requests if request.client == 1 and request.round_index == 1]
    assert [request.coded for request in asked] == [True, False]
    run.advance()
    assert [request.coded for request in channel.requests if request.round_index == 2] == [True] * 5
