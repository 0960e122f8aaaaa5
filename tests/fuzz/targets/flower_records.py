"""Flower's records as a client may fill them: requests, replies and client information, of any protocol version."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedlama.choices.codecs import Float32
from fedlama.errors import DataError
from fedlama.flower.protocol import PROTOCOL, ClientInfo, Failure, TrainReply
from fedlama.flower.server.replies import check
from fedlama.flower.transport import _content, read_request
from tests.fuzz.damage import damage_bytes, damage_value
from tests.fuzz.harness import Target
from tests.fuzz.targets.upload import setting

_DTYPES = ("uint8", "float32", "int64", "bool", "object", "U9", "V1", "x")


def _make(draw: Random) -> bytes:
    """Draw what kind of record, its fields, short payloads and arrays, as JSON."""
    given, kind = setting(), draw.choice(("reply", "reply", "request", "client", "refusal"))
    source: dict[str, Any] = {
        "reply": asdict(given.reply),
        "request": asdict(given.request),
        "client": {"client": 1, "samples": 6},
        "refusal": {"reason": "no data"},
    }[kind]
    protocol: object = PROTOCOL if draw.random() < 0.8 else draw.choice((1, 2, -1, 2**62, "2", 2.5, True, [2]))
    blobs = {name: value for name, value in source.items() if isinstance(value, bytes)}
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in source.items() if name not in blobs}
    damaged = {name: damage_bytes(draw, value).hex() for name, value in blobs.items()}
    short = damaged if draw.random() < 0.5 else {}
    arrays = {name: {"data": value, "dtype": "uint8"} for name, value in damaged.items() if not short}
    for array in arrays.values():
        if draw.random() < 0.2:
            array["dtype"] = draw.choice(_DTYPES)
    if draw.random() < 0.5:
        fields = damage_value(draw, fields)
    else:
        arrays = damage_value(draw, arrays) if draw.random() < 0.5 else arrays
    drawn = {"kind": kind, "fields": fields, "short": short, "arrays": arrays, "protocol": protocol}
    return json.dumps(drawn).encode()


def _records(given: dict[str, Any]) -> RecordDict:
    """Write what Flower lets anyone write; what it refuses never reaches a server."""
    arrays = {
        name: Array(array["dtype"], (len(array["data"]) // 2,), "numpy.ndarray", _stored(array))
        for name, array in given["arrays"].items()
    }
    records = RecordDict({"fedlama": ConfigRecord({"protocol": given["protocol"]}), "m": MetricRecord()})
    records[given["kind"]] = ConfigRecord(given["fields"])
    if given["short"]:
        records["payloads"] = ConfigRecord({name: bytes.fromhex(value) for name, value in given["short"].items()})
    elif given["kind"] in ("request", "reply"):
        records["payloads"] = ArrayRecord(arrays)
    return records


def _stored(array: dict[str, str]) -> bytes:
    """Write an array's bytes as Flower does, as a .npy file; other types as they come."""
    content = bytes.fromhex(array["data"])
    return Array(np.frombuffer(content, np.uint8)).data if array["dtype"] == "uint8" else content


def _read(data: bytes) -> None:
    try:
        records = _records(json.loads(data))
    except Exception as error:
        raise DataError("Flower refuses to write such records") from error
    given = setting()
    with contextlib.suppress(DataError):
        read_request(records)
    content = _content(SimpleNamespace(has_error=lambda: False, content=records))  # type: ignore[arg-type]
    if isinstance(content, Failure):
        raise DataError(content.reason)
    if isinstance(content, ClientInfo):
        assert type(content.client) is type(content.samples) is int
        return
    assert isinstance(content, TrainReply)
    if content.status != "done":
        raise DataError(f"status {content.status}")
    check(content, given.request, given.layers, Float32())


TARGET = Target("flower-records", _make, _read)
