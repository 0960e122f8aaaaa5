"""A round between Flower's calls, and what the replies of its clients are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlama.core.records import RoundRecord
from fedlama.engines.api import RoundOrder
from fedlama.errors import DataError, cut
from fedlama.flower.dropin.progress import RoundMetrics
from fedlama.flower.protocol import REASON_CHARACTERS, TrainReply, TrainRequest
from fedlama.flower.transport import read_reply
from fedlama.runs.reader import read_config, stored_description

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, Message


@dataclass
class OpenRound:
    """A round that is on its way.

    Attributes:
        order: Its order.
        start: When it began, by `time.perf_counter`.
        record: Its record, once it is aggregated.
        metrics: Its metrics, as Flower's functions aggregated them.
        evaluated: The messages for its evaluation.
        replies: Client to the metrics of its evaluation.
    """

    order: RoundOrder
    start: float
    record: RoundRecord | None = None
    metrics: RoundMetrics = field(default_factory=dict)
    evaluated: list[TrainRequest] = field(default_factory=list)
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)


def trained_of(reply: Message) -> TrainReply | None:
    """Return the mod's part of a reply; None where there is none, as in the reply to an evaluation.

    Args:
        reply: A reply without an error.
    """
    if "reply" not in reply.content:
        return None
    try:
        return read_reply(reply.content)
    except DataError:
        return None


def why_not(reply: Message) -> str:
    """Return why a reply cannot be used; empty where it can.

    Args:
        reply: The reply.
    """
    if reply.has_error():
        return f"Flower reports (code {reply.error.code}): {cut(reply.error.reason)}"
    if "refusal" in reply.content:
        return cut(reply.content.config_records["refusal"]["reason"], REASON_CHARACTERS)
    if "reply" in reply.content:
        try:
            trained = read_reply(reply.content)
        except DataError as error:
            return str(error)
        said = cut(trained.detail, REASON_CHARACTERS) if trained.status == "refused" else "it has lost its state"
        return "" if trained.status == "done" else said
    return ""


def plain_config(config: ConfigRecord | None) -> dict[str, object]:
    """Return a configuration as plain JSON types.

    Args:
        config: What goes with the messages to the ClientApp; None for nothing.
    """
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in (config or {}).items()}


def stored_count(out: Path | None) -> int:
    """Return the number of clients of the run in a folder; 0 where there is none.

    Args:
        out: The run folder; None for no folder.
    """
    stored = None if out is None else read_config(out)
    clients = {} if stored is None else stored_description(stored).get("clients")
    count = clients.get("count") if isinstance(clients, Mapping) else None
    return count if isinstance(count, int) else 0
