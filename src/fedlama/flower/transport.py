"""The channel over Flower's Grid: letters become messages, records become orders and answers.

Payloads travel as one flat array each, because Flower spends two requests on every array. Replies are told apart by
the message they reply to: errors made by the SuperLink carry its own node number, not the client's.
"""

from __future__ import annotations

import importlib
import io
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter

from fedlama.data.files import read_header
from fedlama.errors import DataError, MissingExtraError, cut, shown
from fedlama.flower.protocol import Answer, Failure, Introduction, Order, Question


@dataclass(frozen=True)
class Letter:
    """One message to one node."""

    node: int
    content: Order | Question


@dataclass(frozen=True)
class Delivery:
    """What came back for a letter.

    Attributes:
        ticket: The letter's.
        content: The reply, or what came instead of it.
    """

    ticket: str
    content: Answer | Introduction | Failure


class Channel(Protocol):
    """Sends and fetches; never waits for a reply."""

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that are online now, in ascending order."""

    def push(self, letters: Sequence[Letter], lifetime: float) -> list[str]:
        """Send letters.

        Args:
            letters: What to send.
            lifetime: Seconds after which neither letter nor reply is of use any more.

        Returns:
            A ticket for each; empty where the node is not known.
        """

    def pull(self, tickets: Collection[str]) -> list[Delivery]:
        """Fetch what has come back for these tickets; each reply is handed out once."""


def flower(module: str) -> Any:  # noqa: ANN401  (a module of an optional library)
    """Return one of Flower's public modules.

    Args:
        module: ``"app"``, ``"serverapp"`` or ``"clientapp"``.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    try:
        return importlib.import_module(f"flwr.{module}")
    except ImportError as error:
        raise MissingExtraError("flwr", "flower") from error


if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

T = TypeVar("T")
_LOG = logging.getLogger("fedlama.flower")
_ATTEMPTS, _PAUSE = 10, 3.0
_ORDER, _ANSWER = TypeAdapter(Order), TypeAdapter(Answer)
_FINAL = {1, 2, 6, 7}  # the client's program or its packing is at fault: asking again cannot help


class GridChannel:
    """Sends through a Grid; see :class:`fedlama.flower.transport.Channel`.

    Args:
        grid: What Flower hands to a ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that are online now."""
        return tuple(sorted(_patiently(self._grid.get_node_ids)))

    def push(self, letters: Sequence[Letter], lifetime: float) -> list[str]:
        """Send letters; an unknown node's ticket is empty."""
        return list(_patiently(lambda: self._grid.push_messages([_message(one, lifetime) for one in letters])))

    def pull(self, tickets: Collection[str]) -> list[Delivery]:
        """Fetch what has come back."""
        return [
            Delivery(message.metadata.reply_to_message_id, _content(message))
            for message in _patiently(lambda: self._grid.pull_messages(list(tickets)))
        ]


def _patiently(call: Callable[[], Iterable[T]]) -> list[T]:
    """Try again for a while when the SuperLink stumbles; an order that arrives twice is trained once."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(call())
        except Exception as error:  # whatever Flower's transport of the day raises
            _LOG.warning("the SuperLink does not answer properly (%s); trying again", error)
            time.sleep(_PAUSE)
    return list(call())


def order_records(order: Order) -> RecordDict:
    """Write an order as Flower's records."""
    return _records(asdict(order), ("payload",))


def read_order(records: RecordDict) -> Order:
    """Read an order; raises DataError when the records are no order."""
    try:
        return _ORDER.validate_python(_fields(records, ("payload",)))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the message is no order ({cut(error)}); run the same fedlama on both sides") from error


def answer_records(answer: Answer) -> RecordDict:
    """Write an answer as Flower's records."""
    return _records(asdict(answer), ("payload", "evaluation"))


def read_answer(records: RecordDict) -> Answer:
    """Read an answer; raises DataError when the records are no answer."""
    try:
        return _ANSWER.validate_python(_fields(records, ("payload", "evaluation")))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the reply is no answer ({cut(error)}); run the same fedlama on both sides") from error


def introduction_records(introduction: Introduction) -> RecordDict:
    """Write an introduction as Flower's records."""
    app = flower("app")
    records: RecordDict = app.RecordDict({"introduction": app.ConfigRecord(asdict(introduction))})
    return records


def _message(letter: Letter, lifetime: float) -> Message:
    app = flower("app")
    if isinstance(letter.content, Order):
        content, group = order_records(letter.content), str(letter.content.round_index)
        message: Message = app.Message(content, letter.node, "train", ttl=lifetime, group_id=group)
    else:
        message = app.Message(app.RecordDict({}), letter.node, "query", ttl=lifetime)
    return message


def _content(message: Message) -> Answer | Introduction | Failure:
    if message.has_error():
        error = message.error
        return Failure(f"Flower says (code {error.code}): {error.reason}", final=error.code in _FINAL)
    try:
        if "introduction" in message.content:
            record = message.content.config_records["introduction"]
            client, samples = int(str(record["client"])), int(str(record["samples"]))
            if not 1 <= samples < 2**53:  # weights are made of it
                raise DataError(f"it has {shown(samples)} samples")
            return Introduction(client, samples)
        return read_answer(message.content)
    except (KeyError, TypeError, ValueError) as error:  # DataError is a ValueError
        return Failure(f"reply refused: {cut(error)}", final=True)


def _records(fields: Mapping[str, Any], payloads: Sequence[str]) -> RecordDict:
    app = flower("app")
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if name not in payloads
    }
    arrays = {name: app.Array(np.frombuffer(fields[name], np.uint8)) for name in payloads if fields[name]}
    records: RecordDict = app.RecordDict({"fields": app.ConfigRecord(plain), "payloads": app.ArrayRecord(arrays)})
    return records


def _fields(records: RecordDict, payloads: Sequence[str]) -> dict[str, Any]:
    arrays = records.array_records["payloads"]
    return {
        **records.config_records["fields"],
        **{name: _payload(arrays[name].data, name) if name in arrays else b"" for name in payloads},
    }


def _payload(data: bytes, name: str) -> bytes:
    """Return the bytes of a flat array; NumPy's own reader would set aside as much memory as the array claims."""
    stream = io.BytesIO(data)
    shape, _, dtype = read_header(stream, f"the array {name!r}")
    body = stream.read()
    if dtype != np.uint8 or shape != (len(body),):
        raise DataError(f"the array {name!r} says {dtype} {shape}, but holds {len(body)} bytes")
    return body
