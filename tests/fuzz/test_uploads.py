"""What the fuzzing found in the decoder of uploads, each as it was found; a refused upload changes nothing."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlama.choices.samplers import UniformSampler
from fedlama.core import wire
from fedlama.errors import ConfigError, DataError, FedlamaError
from fedlama.flower.protocol import Failure, TrainReply, TrainRequest
from fedlama.flower.server.engine import FlowerEngine
from fedlama.flower.settings import experiment_of, policy_of
from tests.flower.cases import QUICK, deployed, federation, in_process
from tests.flower.in_process import InProcessChannel
from tests.fuzz.targets import round_messages, upload
from tests.fuzz.targets.upload import ROUND, setting


def packed(message: wire.Message, held: bytes = b"") -> bytes:
    data = wire.pack(message)
    return struct.pack("<I", len(data)) + data + (held or setting().reply.evaluation)


def message(**changes: Any) -> wire.Message:  # noqa: ANN401
    return replace(wire.unpack(setting().reply.payload), **changes)


def with_number(index: int, number: float) -> dict[int, bytes]:
    payloads = dict(message().payloads)
    return {**payloads, index: struct.pack("<f", number) + payloads[index][4:]}


def test_the_messages_below_are_otherwise_sound() -> None:
    assert upload.refusal(packed(message())) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"payloads": with_number(0, math.nan)}, "layer '0.weight' holds NaN, infinity"),
        ({"payloads": with_number(2, -math.inf)}, "holds NaN, infinity or values beyond 1e+18"),
        ({"payloads": with_number(2, 3e38)}, "holds NaN, infinity or values beyond 1e+18"),
        ({"payloads": with_number(2, -1.1e18)}, "holds NaN, infinity or values beyond 1e+18"),
        ({"payloads": with_number(2, 0.9e18)}, "changes beyond 4.1943e+06, which sums in fixed point cannot hold"),
        ({"payloads": with_number(2, 4e6)}, ""),
        ({"loss": math.inf}, "the loss is inf"),
        ({"loss": math.nan}, "the loss is nan"),
        ({"scalars": {0: math.inf, 2: 0.1}}, "discrepancy scalars are not one finite number"),
        ({"scalars": {0: math.nan, 2: 0.1}}, "discrepancy scalars are not one finite number"),
        ({"scalars": {0: -1.0, 2: 0.1}}, "discrepancy scalars are not one finite number"),
        ({"scalars": {}}, "discrepancy scalars are not one finite number"),
        ({"round_index": ROUND - 1}, "the reply's payload is for round 4, expected round 5"),
        ({"client": 0}, "the reply's payload is for client 0, expected client 1"),
        ({"payloads": {0: message().payloads[0]}}, "the message holds the layers 0, expected 0, 2"),
        ({"payloads": {**message().payloads, 0: b"1234"}}, "has 4 bytes, expected 48"),
    ],
)
def test_refused_uploads(changes: dict[str, Any], says: str) -> None:
    found = upload.refusal(packed(message(**changes)))
    assert says in found
    assert bool(found) == bool(says)


def test_an_evaluation_of_another_round_is_refused() -> None:
    held = replace(wire.unpack(setting().reply.evaluation), round_index=ROUND - 1)
    assert "the reply's evaluation is for round 4, expected round 5" in upload.refusal(
        packed(message(), wire.pack(held))
    )


@pytest.mark.parametrize("length", [2**63 - 1, 2**64 - 1, 2**40])
def test_a_layer_that_claims_exabytes_is_cut(length: int) -> None:
    data = bytearray(wire.pack(wire.Message(0, 0, {0: b"abcd"})))
    data[48:56] = struct.pack("<Q", length)
    with pytest.raises(DataError, match="its headers describe another length"):
        wire.unpack(bytes(data))


def test_a_reply_that_comes_twice_counts_once() -> None:
    assert round_messages.refusal(["twice"]) == ""


def test_a_reply_that_nobody_asked_for_counts_for_nothing() -> None:
    assert "client 1 did not answer" in round_messages.refusal(["unasked"])


VICTIM = UniformSampler(3).draw(5, 0, 0)[0]
HALF = replace(QUICK, min_replies=0.5, deadline=3.0)


def poison(channel: InProcessChannel) -> None:
    """Let the victim's replies end in NaN."""
    answer = channel._reply

    def poisoned(client: int, request: TrainRequest) -> TrainReply | Failure | None:
        reply = answer(client, request)
        assert isinstance(reply, TrainReply)
        return replace(reply, payload=reply.payload[:-4] + struct.pack("<f", math.nan)) if client == VICTIM else reply

    channel._reply = poisoned  # type: ignore[method-assign]


def test_a_refused_reply_leaves_the_model_as_the_others_make_it(tmp_path: Path) -> None:
    without = in_process(federation(), tmp_path / "a", lambda request: "raise" if request.client == VICTIM else None)
    poisoned = in_process(federation(), tmp_path / "b")
    poison(poisoned)
    first, second = (deployed(federation(), channel, HALF) for channel in (without, poisoned))
    first.advance()
    second.advance()
    assert isinstance(second.engine, FlowerEngine)
    assert any(f"client {VICTIM}: reply refused: layer" in one for one in second.engine.latest.incidents)
    assert all(torch.equal(second.values[name], value) for name, value in first.values.items())


def test_a_run_whose_clients_are_all_refused_ends_with_a_sentence(tmp_path: Path) -> None:
    given = federation()
    channel = in_process(given, tmp_path)
    poison(channel)
    run = deployed(given, channel, replace(QUICK, deadline=3.0))
    before = {name: value.clone() for name, value in run.values.items()}
    with pytest.raises(FedlamaError, match=r"2 of 3 clients answered, 3 are needed .*holds NaN, infinity"):
        run.advance()
    assert all(torch.equal(run.values[name], value) for name, value in before.items())


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "{", '{"data": NaN}'])
def test_a_run_configuration_of_nonsense(text: str) -> None:
    with pytest.raises(ConfigError):
        experiment_of({"experiment": text})


def test_rules_that_are_no_numbers() -> None:
    with pytest.raises(ConfigError, match=r"deadline is '', expected a number[^\n]*\njoin is 'soon'"):
        policy_of({"deadline": "", "join": "soon"})
    with pytest.raises(ConfigError) as caught:
        policy_of({"rejoin": "x" * 3000})
    assert len(str(caught.value)) < 500


def test_records_of_flower() -> None:
    """An array that claims a TiB; fields of other types; a number of samples that would turn a weight around."""
    pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
    from types import SimpleNamespace

    from flwr.app import Array, ArrayRecord

    from fedlama.flower.protocol import ClientInfo
    from fedlama.flower.transport import _content, info_records, read_reply, reply_records

    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}"
    claims = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"x"
    records = reply_records(setting().reply)
    records["payloads"] = ArrayRecord({"payload": Array("uint8", (1,), "numpy.ndarray", claims)})
    with pytest.raises(DataError, match=r"claims uint8 \(1099511627776,\), expected uint8 \(1,\)"):
        read_reply(records)
    records = reply_records(setting().reply)
    records.config_records["reply"]["round_index"] = "five"
    with pytest.raises(DataError, match="is not a training reply"):
        read_reply(records)
    for samples in (-5, 0, 2**60):
        content = info_records(ClientInfo(1, samples))
        said = _content(SimpleNamespace(has_error=lambda: False, content=content))  # type: ignore[arg-type]
        assert "samples" in said.reason  # type: ignore[union-attr]
