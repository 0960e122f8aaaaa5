"""The channel over Flower's Grid: requests and replies as Flower's records.

Payloads are a record of their own, so that clients that get the same bytes share one object. Short ones are values of
it; a longer one is a flat array, which Flower sends in pieces: an array takes two objects more, and an object takes an
HTTP request of every process that it passes. A reply is matched by the message that it replies to: errors made by the
SuperLink carry the SuperLink's node number instead of the client's.

==============  ======================  ==============================================================
record          kind                    content
==============  ======================  ==============================================================
``fedlama``     ConfigRecord            ``protocol``, the version of the messages; an :class:`InfoRequest` is only this
``request``     ConfigRecord            fields of a :class:`TrainRequest` but its payloads
``reply``       ConfigRecord            fields of a :class:`TrainReply` but its payloads and its score
``evaluate``    ConfigRecord            fields of an :class:`EvaluateRequest` but its payload
``evaluated``   ConfigRecord            fields of an :class:`EvaluateReply` but its score
``score``       ConfigRecord            ``loss``, ``names`` and ``values`` of metrics, ``primary``, ``direction``,
                                        ``weight``
``secure``      ConfigRecord            fields of a :class:`SecureRequest` but its payload
``secured``     ConfigRecord            fields of a :class:`SecureReply` but its payload
``client``      ConfigRecord            fields of a :class:`ClientInfo`
``refusal``     ConfigRecord            ``reason``, in place of a :class:`ClientInfo`
``payloads``    ConfigRecord            payloads of at most 256 KiB; without any there is no such record
                or ArrayRecord          payloads of which one is longer, as flat arrays of uint8
==============  ======================  ==============================================================
"""

from __future__ import annotations

import importlib
import io
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from pydantic import TypeAdapter

from fedlama.core.scores import Score
from fedlama.data.files import read_header
from fedlama.errors import DataError, MissingExtraError, cut, shown
from fedlama.flower.limits import LimitedReplies
from fedlama.flower.protocol import (
    PROTOCOL,
    REASON_CHARACTERS,
    ClientInfo,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    Incoming,
    Outgoing,
    SecureReply,
    SecureRequest,
    TrainReply,
    TrainRequest,
)

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

T = TypeVar("T")
_LOG = logging.getLogger("fedlama.flower")
_ATTEMPTS, _PAUSE = 10, 3.0
_MOST_METRICS, _NAME = 100, 100  # metrics of a score, and characters of a metric's name
_MOST_WEIGHT = 2.0**53
_LONGEST_VALUE = 2**18  # bytes; a longer payload is an array
_SAME_VERSION = "install the same version of fedlama on the server and on all nodes"
_TO_NODE, _TO_SERVER = ("the server", "this node"), ("the node", "this server")
_FINAL_CODES = {1, 2, 6, 7}  # the client's program or its packing is at fault: a second request cannot help


def flower_module(name: str) -> Any:  # noqa: ANN401  (a module of an optional library)
    """Return one of Flower's public modules.

    Args:
        name: ``"app"``, ``"serverapp"`` or ``"clientapp"``.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    try:
        return importlib.import_module(f"flwr.{name}")
    except ImportError as error:
        raise MissingExtraError("flwr", "flower") from error


class GridChannel:
    """Sends through a Grid; see :class:`fedlama.flower.protocol.Channel`.

    Args:
        grid: The Grid that Flower passes to a ServerApp.
        query_type: The type of messages that ask which client a node serves; a ClientApp must have a function for it.
    """

    def __init__(self, grid: Grid, query_type: str = "query") -> None:
        self._grid, self._query_type, self._limits = grid, query_type, LimitedReplies(grid)

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that are online now."""
        return tuple(sorted(with_retries(self._grid.get_node_ids)))

    def push(self, outgoing: Sequence[Outgoing], lifetime: float) -> list[str]:
        """Send messages; the ticket of an unknown node is empty."""
        query = self._query_type
        made = with_retries(lambda: self._grid.push_messages([_message(each, lifetime, query) for each in outgoing]))
        for ticket, each in zip(made, outgoing, strict=True):
            self._limits.allow(ticket, each.reply_bytes)
        return made

    def pull(self, tickets: Collection[str]) -> list[Incoming]:
        """Fetch the replies that have arrived; one that is larger than its request allows is refused before that."""
        received = []
        for message in with_retries(lambda: self._grid.pull_messages(list(tickets))):
            ticket = message.metadata.reply_to_message_id
            reason = self._limits.reason(ticket)
            received.append(Incoming(ticket, Failure(reason, final=True) if reason else _content(message)))
        return received


def with_retries(call: Callable[[], Iterable[T]]) -> list[T]:
    """Repeat a failed call to the SuperLink for a while; a request that arrives twice is trained once.

    Args:
        call: What to do.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(call())
        except Exception as error:  # Flower's transports raise errors of several HTTP and gRPC libraries
            _LOG.warning("the SuperLink does not answer properly (%s); trying again", error)
            time.sleep(_PAUSE)
    return list(call())


class _Form(Generic[T]):
    """How one kind of message is written as records.

    Args:
        kind: The message's class.
        name: Name of the record with its fields.
        what: What the message is, with its article.
        sides: Who sends it, and who reads it.
        payloads: The fields with bytes.
        scored: Whether its field `score` is a client's score, which becomes a record of its own.
    """

    def __init__(
        self,
        kind: type[T],
        name: str,
        what: str,
        sides: tuple[str, str],
        payloads: Sequence[str] = (),
        *,
        scored: bool = False,
    ) -> None:
        self._adapter, self.name, self._what, self._sides = TypeAdapter(kind), name, what, sides
        self._payloads, self._scored = payloads, scored

    def write(self, message: T) -> RecordDict:
        """Write a message as Flower's records."""
        content = dict(vars(message))
        score = content.pop("score") if self._scored else None
        return _with_score(_records(self.name, content, self._payloads), score)

    def read(self, records: RecordDict) -> T:
        """Read a message.

        Raises:
            DataError: The records are not such a message of this protocol.
        """
        _check_protocol(records, *self._sides)
        try:
            content = _fields(self.name, records, self._payloads)
            return self._adapter.validate_python(content | ({"score": _score(records)} if self._scored else {}))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the message is not {self._what} ({cut(error)}); {_SAME_VERSION}") from error


_REQUEST = _Form(TrainRequest, "request", "a training request", _TO_NODE, ("payload", "shares"))
_REPLY = _Form(
    TrainReply, "reply", "a training reply", _TO_SERVER, ("payload", "evaluation", "masked_loss"), scored=True
)
_EVALUATE = _Form(EvaluateRequest, "evaluate", "a request for a score", _TO_NODE, ("payload",))
_EVALUATED = _Form(EvaluateReply, "evaluated", "a client's score", _TO_SERVER, scored=True)
_SECURE = _Form(SecureRequest, "secure", "a request of the secure aggregation", _TO_NODE, ("payload",))
_SECURED = _Form(SecureReply, "secured", "a reply of the secure aggregation", _TO_SERVER, ("payload",))


def request_records(request: TrainRequest) -> RecordDict:
    """Write a training request as Flower's records."""
    return _REQUEST.write(request)


def read_request(records: RecordDict) -> TrainRequest:
    """Read a training request.

    Raises:
        DataError: The records are not a request of this protocol.
    """
    return _REQUEST.read(records)


def reply_records(reply: TrainReply) -> RecordDict:
    """Write a training reply as Flower's records."""
    return _REPLY.write(reply)


def read_reply(records: RecordDict) -> TrainReply:
    """Read a training reply.

    Raises:
        DataError: The records are not a reply of this protocol.
    """
    return _REPLY.read(records)


def evaluate_records(request: EvaluateRequest) -> RecordDict:
    """Write a request for a score as Flower's records."""
    return _EVALUATE.write(request)


def read_evaluate(records: RecordDict) -> EvaluateRequest:
    """Read a request for a score.

    Raises:
        DataError: The records are not a request of this protocol.
    """
    return _EVALUATE.read(records)


def evaluated_records(reply: EvaluateReply) -> RecordDict:
    """Write a client's score as Flower's records."""
    return _EVALUATED.write(reply)


def secure_records(request: SecureRequest) -> RecordDict:
    """Write a request of the secure aggregation as Flower's records."""
    return _SECURE.write(request)


def read_secure(records: RecordDict) -> SecureRequest:
    """Read a request of the secure aggregation.

    Raises:
        DataError: The records are not a request of this protocol.
    """
    return _SECURE.read(records)


def secured_records(reply: SecureReply) -> RecordDict:
    """Write a reply of the secure aggregation as Flower's records."""
    return _SECURED.write(reply)


def check_info_request(records: RecordDict) -> None:
    """Check an information request.

    Raises:
        DataError: The records are of another version of the protocol.
    """
    _check_protocol(records, *_TO_NODE)


def info_records(info: ClientInfo) -> RecordDict:
    """Write a client's information as Flower's records."""
    return _records("client", asdict(info))


def refusal_records(reason: str) -> RecordDict:
    """Write the reason why a node cannot serve a client, in place of the client's information."""
    return _records("refusal", {"reason": reason})


def _check_protocol(records: RecordDict, sender: str, receiver: str) -> None:
    """Refuse records of another version of the messages; the first version did not name itself."""
    version = records.config_records.get("fedlama", {}).get("protocol", 1)
    if version != PROTOCOL:
        raise DataError(
            f"{sender} speaks version {shown(version)} of fedlama's protocol, {receiver} version {PROTOCOL}; "
            f"{_SAME_VERSION}"
        )


def _message(outgoing: Outgoing, lifetime: float, query_type: str = "query") -> Message:
    app = flower_module("app")
    content = outgoing.content
    if content.kind == "train":
        records, group = request_records(content), str(content.round_index)
        message: Message = app.Message(records, outgoing.node, content.kind, ttl=lifetime, group_id=group)
    elif content.kind == "evaluate":
        message = app.Message(evaluate_records(content), outgoing.node, content.kind, ttl=lifetime)
    elif content.kind == "query.secure":
        message = app.Message(secure_records(content), outgoing.node, content.kind, ttl=lifetime)
    else:
        message = app.Message(_protocol_record(), outgoing.node, query_type, ttl=lifetime)
    return message


def _content(message: Message) -> TrainReply | EvaluateReply | SecureReply | ClientInfo | Failure:
    """Read a node's reply to a message of either kind; a reply that cannot be read becomes a failure."""
    if message.has_error():
        error = message.error
        return Failure(f"Flower reports (code {error.code}): {cut(error.reason)}", final=error.code in _FINAL_CODES)
    records = message.content
    try:
        for form in (_REPLY, _EVALUATED, _SECURED):
            if form.name in records:
                return form.read(records)
        _check_protocol(records, *_TO_SERVER)
        if "refusal" in records:
            reason = cut(records.config_records["refusal"]["reason"], REASON_CHARACTERS)
            return Failure(reason or "the node refused without a reason; see its log", final=True)
        return _client_info(records.config_records["client"])
    except (KeyError, TypeError, ValueError) as error:  # DataError is a ValueError
        return Failure(f"reply refused: {cut(error)}", final=True)


def _client_info(fields: Mapping[str, Any]) -> ClientInfo:
    client, samples = int(str(fields["client"])), int(str(fields["samples"]))
    if not 1 <= samples < 2**53:  # the weights are computed from it in float64
        raise DataError(f"samples is {shown(samples)}, expected 1 to 2^53 - 1; correct the node's number of samples")
    return ClientInfo(client, samples, fields["has_test_set"] is True)


def _with_score(records: RecordDict, score: Score | None) -> RecordDict:
    if score is not None:
        fields: dict[str, Any] = {"loss": float(score.loss), "primary": score.primary, "direction": score.direction}
        fields["weight"] = float(score.weight)  # older servers do not read it
        if score.metrics:
            fields |= {"names": list(score.metrics), "values": [float(value) for value in score.metrics.values()]}
        records["score"] = flower_module("app").ConfigRecord(fields)
    return records


def _score(records: RecordDict) -> Score | None:
    """Read a client's score; None where the message has none.

    Raises:
        DataError: It is not a score; its texts come from another machine and are shown in reports.
    """
    if "score" not in records:
        return None
    fields = records.config_records["score"]
    names, values = list(fields.get("names", [])), list(fields.get("values", []))
    sound = len(names) == len(values) <= _MOST_METRICS and len(set(names)) == len(names)
    sound = sound and all(isinstance(name, str) and name.isprintable() and len(name) <= _NAME for name in names)
    primary, direction, loss, weight = fields["primary"], fields["direction"], fields["loss"], fields.get("weight", 0.0)
    sound = sound and primary in ("loss", *names) and direction in ("higher", "lower")
    if not sound or not all(isinstance(value, float) for value in (loss, *values)):
        raise DataError("the score is not a loss and metrics with their names, one of them primary")
    weight = weight if isinstance(weight, float) and 0 <= weight < _MOST_WEIGHT else 0.0
    return Score(loss, dict(zip(names, values, strict=True)), primary, direction, weight)


def _records(name: str, fields: Mapping[str, Any], payloads: Sequence[str] = ()) -> RecordDict:
    app = flower_module("app")
    plain = {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in fields.items()
        if field not in payloads
    }
    records = _protocol_record()
    records[name] = app.ConfigRecord(plain)
    given = {field: fields[field] for field in payloads if fields[field]}
    if any(len(value) > _LONGEST_VALUE for value in given.values()):
        arrays = {field: app.Array(np.frombuffer(value, np.uint8)) for field, value in given.items()}
        records["payloads"] = app.ArrayRecord(arrays)
    elif given:
        records["payloads"] = app.ConfigRecord(given)
    return records


def _protocol_record() -> RecordDict:
    app = flower_module("app")
    records: RecordDict = app.RecordDict({"fedlama": app.ConfigRecord({"protocol": PROTOCOL})})
    return records


def _fields(name: str, records: RecordDict, payloads: Sequence[str]) -> dict[str, Any]:
    short, arrays = records.config_records.get("payloads", {}), records.array_records.get("payloads", {})
    fields: dict[str, Any] = dict(records.config_records[name])
    for field in payloads:
        fields[field] = _payload(arrays[field].data, field) if field in arrays else short.get(field, b"")
        if not isinstance(fields[field], bytes):  # the form of the message would turn a text into bytes
            raise DataError(f"{field} is not bytes")
    return fields


def _payload(data: bytes, name: str) -> bytes:
    """Return the bytes of a flat array; NumPy's own reader would reserve as much memory as the array claims to need."""
    stream = io.BytesIO(data)
    shape, _, dtype = read_header(stream, f"the array {name!r}")
    body = stream.read()
    if dtype != np.uint8 or shape != (len(body),):
        raise DataError(f"the array {name!r} claims {dtype} {shape}, expected uint8 ({len(body)},)")
    return body
