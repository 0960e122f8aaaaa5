"""Messages: they survive the way, they have the length that is counted, and damage is noticed."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlama import (
    SGD,
    Cyclic,
    DataError,
    FedAvg,
    Federation,
    FedLAMA,
    FedLUAR,
    Float16,
    Float32,
    RoundRecord,
    Run,
    UniformSampler,
    by_module,
)
from fedlama.choices.codecs import Codec, codec_of
from fedlama.choices.strategies import Strategy
from fedlama.core.layers import Layer
from fedlama.core.ledger import Transfer
from fedlama.core.wire import Message, message_bytes, pack, unpack
from tests.core.helpers import Normed, skewed_clients

PAYLOADS = st.dictionaries(st.integers(0, 2**32 - 1), st.binary(max_size=30), max_size=5)
MESSAGES = st.builds(
    lambda e, client, payloads, scalars, samples, loss: Message(
        e, client, payloads, dict.fromkeys(payloads, scalars) if scalars is not None else {}, samples, loss
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    PAYLOADS,
    st.none() | st.floats(0, allow_nan=False),
    st.integers(0, 2**63),
    st.floats(allow_nan=False),
)


@given(MESSAGES)
def test_messages_survive_and_have_the_counted_length(message: Message) -> None:
    data = pack(message)
    assert unpack(data) == message
    lengths = [len(payload) for payload in message.payloads.values()]
    assert len(data) == message_bytes(lengths, scalars=bool(message.scalars))


def test_layout_by_hand() -> None:
    data = pack(Message(3, 7, {5: b"abcd"}, {5: 2.5}, samples=11, loss=0.25))
    assert data == (
        b"FLMA" + struct.pack("<HHIIQQd", 1, 1, 3, 7, 1, 11, 0.25) + struct.pack("<IIQd", 5, 0, 4, 2.5) + b"abcd"
    )


@given(MESSAGES, st.data())
def test_cut_messages_are_refused(message: Message, data: st.DataObject) -> None:
    whole = pack(message)
    with pytest.raises(DataError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(MESSAGES, st.binary(min_size=1, max_size=50))
def test_lengthened_messages_are_refused(message: Message, more: bytes) -> None:
    with pytest.raises(DataError, match="its headers describe another length"):
        unpack(pack(message) + more)


def test_strange_messages_are_refused() -> None:
    data = pack(Message(0, 0, {1: b"x"}))
    with pytest.raises(DataError, match="not a fedlama message of version 1"):
        unpack(b"HTTP" + data[4:])
    with pytest.raises(DataError, match="version 2"):
        unpack(data[:4] + struct.pack("<H", 2) + data[6:])
    twice = data[:16] + struct.pack("<Q", 2) + data[24:] + data[40:]
    with pytest.raises(DataError, match="layer 1 occurs twice"):
        unpack(twice)


# What a run books is what messages built from its tensors weigh


class Sending(Run):
    """A run that also packs every message that it books."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.sent: list[tuple[int, int, str, int]] = []

    def advance(self) -> RoundRecord:
        """Pack uploads and downloads of the round."""
        before = {name: value.clone() for name, value in self.values.items()}
        record = super().advance()
        for transfer in record.transfers:
            for client in transfer.clients:
                values = before if transfer.direction == "down" else record.client_models[client]
                codec = Float32() if transfer.direction == "down" else self.federation.codec
                payloads = {
                    index: b"".join(codec_of(spec, codec).encode(values[spec.name]) for spec in layer.tensors)
                    for index, layer in self._payloads(transfer)
                }
                scalars = dict.fromkeys(payloads, 1.5) if transfer.scalars else {}
                data = pack(Message(record.round_index, client, payloads, scalars, 10, record.loss))
                self.sent.append((record.round_index, client, transfer.direction, len(data)))
        return record

    def _payloads(self, transfer: Transfer) -> list[tuple[int, Layer]]:
        names = {item.layer for item in transfer.payloads}
        return [(index, layer) for index, layer in enumerate(self.layers) if layer.name in names]


@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("codec", [Float32(), Float16()], ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "strategy", [FedAvg(1), FedLAMA(1, 3), FedLUAR(1, 1), Cyclic(1)], ids=lambda strategy: strategy.name
)
def test_packed_messages_weigh_what_the_ledger_says(strategy: Strategy[Any], codec: Codec, modules: bool) -> None:
    model = Normed()
    run = Sending(
        Federation(
            model,
            skewed_clients(),
            strategy,
            8,
            solver=SGD(0.05, momentum=0.5),
            sampler=UniformSampler(2),
            codec=codec,
            layers=by_module(model) if modules else None,
            keep_client_models=True,
        )
    )
    while run.round_index < 8:
        run.advance()
    booked = [
        (one.round_index, client, one.direction, one.total_bytes // len(one.clients))
        for one in run.ledger.transfers
        for client in one.clients
    ]
    assert run.sent == booked
    for direction in ("up", "down"):
        assert sum(size for *_, way, size in run.sent if way == direction) == run.ledger.total_bytes(direction)
