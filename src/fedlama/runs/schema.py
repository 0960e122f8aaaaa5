"""The lines of a run folder's files, and how they are checked: a file may be damaged, or come from another person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from fedlama.core.client_scores import ClientScores
from fedlama.core.ledger import Direction, Transfer
from fedlama.core.measures import Better
from fedlama.core.records import LayerRecord, RoundRecord, Score

_Whole = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Number = Annotated[str, Field(strict=True, pattern=r"^(0|[1-9][0-9]{0,15})$")]
_Name = Annotated[str, Field(strict=True, max_length=1000)]


class _Score(TypedDict):
    """A score with its accuracy among its metrics."""

    loss: _Finite | None
    metrics: dict[_Name, _Finite | None]
    primary: _Name
    direction: Better
    weight: NotRequired[_Finite]


_ClientScores = TypedDict("_ClientScores", {"global": dict[_Number, _Score], "own": dict[_Number, _Score]})
"""The scores of single clients, by client."""


class _Metrics(TypedDict):
    """What is read from a line of metrics.jsonl."""

    round: _Whole
    local_steps: _Whole
    train_loss: _Finite | None
    accuracy: Annotated[_Finite, Field(ge=0, le=1)] | None
    test_loss: _Finite | None
    seconds: _Finite
    evaluation_seconds: _Finite
    metrics: NotRequired[dict[_Name, _Finite | None]]
    primary: NotRequired[_Name | None]
    direction: NotRequired[Better | None]
    missing: NotRequired[list[_Whole]]
    client_steps: NotRequired[dict[_Number, Annotated[_Whole, Field(ge=1)]]]
    validation: NotRequired[_Score]
    client_scores: NotRequired[_ClientScores]


class _Transfer(TypedDict):
    """What is read from a transfer in a line of ledger.jsonl, where it is called a shipment."""

    direction: Literal["down", "up", "evaluation", "evaluation-down"]
    clients: list[_Whole]
    layers: dict[_Name, Annotated[list[_Whole], Field(min_length=2, max_length=2)]]
    scalars: bool


class _Layer(TypedDict):
    """A layer in a line of layers.jsonl."""

    interval: Annotated[_Whole, Field(ge=1)]
    synchronised: bool
    discrepancy: _Finite | None
    unit_discrepancy: _Finite | None
    bytes_up: _Whole
    bytes_down: _Whole
    refused: NotRequired[tuple[_Whole, ...]]


_METRICS = TypeAdapter(_Metrics)
_TRANSFERS = TypeAdapter(list[_Transfer])
_LAYERS = TypeAdapter(dict[_Name, _Layer])


class MalformedLine(ValueError):  # noqa: N818  (it is a line, and its reader reports the error)
    """A line of a run folder that is not as :mod:`fedlama.runs.folder` writes it.

    Args:
        stream: The line's file: 0 for metrics.jsonl, 1 for ledger.jsonl, 2 for layers.jsonl.
        reason: What is wrong with it.
    """

    def __init__(self, stream: int, reason: object) -> None:
        self.stream = stream
        super().__init__(str(reason))


def round_record(metrics: Mapping[str, Any], ledger: Mapping[str, Any], layers: Mapping[str, Any]) -> RoundRecord:
    """Return the record of a round, from its line in each file.

    Args:
        metrics: The line of metrics.jsonl.
        ledger: The line of ledger.jsonl.
        layers: The line of layers.jsonl.

    Raises:
        MalformedLine: A line lacks a key, or its content is not as :mod:`fedlama.runs.folder` writes it.
    """
    with _of_stream(0):
        line = _METRICS.validate_python(metrics)
    with _of_stream(1):
        transfers = tuple(
            Transfer.from_json(line["round"], item) for item in _TRANSFERS.validate_python(ledger["shipments"])
        )
    with _of_stream(2):
        layer_lines = _LAYERS.validate_python(layers["layers"])
    answered = next((transfer.clients for transfer in transfers if transfer.direction == "up"), ())
    missing = line.get("missing", [])
    with _of_stream(0):
        score = _score(line)
        validation = _whole_score(line["validation"]) if "validation" in line else None
        client_scores = _client_scores(line["client_scores"]) if "client_scores" in line else None
    return RoundRecord(
        round_index=line["round"],
        local_steps=line["local_steps"],
        cohort=tuple(sorted([*answered, *missing])) if missing else answered,
        loss=_number(line["train_loss"]),
        layers={name: _layer(name, layer, transfers) for name, layer in layer_lines.items()},
        transfers=transfers,
        score=score,
        seconds=line["seconds"],
        evaluation_seconds=line["evaluation_seconds"],
        client_steps={int(client): steps for client, steps in line.get("client_steps", {}).items()},
        validation=validation,
        client_scores=client_scores,
    )


@contextmanager
def _of_stream(stream: int) -> Iterator[None]:
    """Name the file of a line that cannot be read.

    Raises:
        MalformedLine: It lacks a key, or has another content than expected.
    """
    try:
        yield
    except KeyError as error:
        raise MalformedLine(stream, f"it lacks {error}") from error
    except ValueError as error:
        raise MalformedLine(stream, error) from error


def _score(line: _Metrics) -> Score | None:
    """Return a round's score; before version 0.2 a line had an accuracy and a loss alone."""
    accuracy, loss = line["accuracy"], _number(line["test_loss"])
    primary, direction = line.get("primary"), line.get("direction")
    if primary is None or direction is None:
        return None if accuracy is None and line["test_loss"] is None else Score.of_accuracy(accuracy, loss)
    metrics = {} if accuracy is None and primary != "accuracy" else {"accuracy": _number(accuracy)}
    metrics |= {name: _number(value) for name, value in line.get("metrics", {}).items()}
    if primary != "loss" and primary not in metrics:
        raise ValueError(f"its primary metric {primary!r} is not among its metrics")
    return Score(loss, metrics, primary, direction)


def _client_scores(stored: _ClientScores) -> ClientScores:
    """Return the scores of single clients."""
    parts = ({int(client): _whole_score(score) for client, score in stored[part].items()} for part in ("global", "own"))
    return ClientScores(*parts)


def _whole_score(stored: _Score) -> Score:
    """Return a score that was written whole."""
    metrics = {name: _number(value) for name, value in stored["metrics"].items()}
    if stored["primary"] != "loss" and stored["primary"] not in metrics:
        raise ValueError(f"its primary metric {stored['primary']!r} is not among its metrics")
    return Score(_number(stored["loss"]), metrics, stored["primary"], stored["direction"], stored.get("weight", 0.0))


def _layer(name: str, line: _Layer, transfers: Sequence[Transfer]) -> LayerRecord:
    """Return a layer's record.

    When clients lacked different layers, version 0.1 wrote the bytes of the last transfer alone; all are counted here.
    """
    record = LayerRecord(**line)
    up, down = _parts(name, "up", transfers), _parts(name, "down", transfers)
    return replace(
        record,
        bytes_up=sum(up) if up[-1:] == [record.bytes_up] else record.bytes_up,
        bytes_down=sum(down) if down[-1:] == [record.bytes_down] else record.bytes_down,
    )


def _parts(name: str, direction: Direction, transfers: Sequence[Transfer]) -> list[int]:
    """Return a layer's payload bytes in each transfer of one direction that holds it."""
    return [
        len(transfer.clients) * item.payload_bytes
        for transfer in transfers
        if transfer.direction == direction
        for item in transfer.payloads
        if item.layer == name
    ]


def _number(value: float | None) -> float:
    """Return a number; JSON has no NaN, so null stands for it."""
    return math.nan if value is None else value
