"""Absences given one by one: a trace, recorded or made up."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedlama.choices.availability.base import Fate
from fedlama.choices.availability.rules import Rules
from fedlama.core.paths import expanded
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse, whole
from fedlama.data.files import decode_text, read_whole
from fedlama.errors import DataError

_LIMIT = 64 << 20
"""Largest file that is read, in bytes."""


@dataclass(frozen=True)
class Absence:
    """One client's absence over consecutive rounds.

    Args:
        client: The client's number.
        first_round: Its first round, from 0.
        last_round: Its last round, `first_round` or later.
        fate: ``"away"`` or ``"dies"``; see :data:`~fedlama.choices.availability.base.Fate`.

    Raises:
        ConfigError: A value is out of range.
    """

    client: int
    first_round: int
    last_round: int
    fate: Literal["away", "dies"] = "away"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "client", "first_round", "last_round", minimum=0)
        refuse(problems + one_of(self, "fate", ("away", "dies")))
        refuse(at_least(self, self.first_round, "last_round"))


@register("availability")
@dataclass(frozen=True, kw_only=True)
class Trace(Rules):
    """Clients miss the rounds that a trace lists, and answer in all others.

    Args:
        absences: The absences. A run's ``config.json`` holds them, so that it can be repeated without the file.
        path: A file with them, read when `absences` is empty: JSON, a list of objects with the keys of
            :class:`Absence`, or CSV with those keys as its first line.
        min_replies: See :class:`~fedlama.choices.availability.rules.Rules`.
        rejoin: See :class:`~fedlama.choices.availability.rules.Rules`.

    Raises:
        ConfigError: Neither absences nor a path is given, or a value is out of range.
        DataError: The file cannot be read as a trace.

    Example:
        >>> Trace(absences=(Absence(client=1, first_round=4, last_round=6),)).fates([0, 1], round_index=5, seed=0)
        ['answers', 'away']
    """

    name: ClassVar[str] = "trace"
    absences: tuple[Absence, ...] = ()
    path: str = ""
    min_replies: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path and not self.absences:
            object.__setattr__(self, "absences", _read(expanded(self.path)))
        if not self.absences:
            refuse(["Trace: absences is empty and there is no path; give one of them, or choose name = 'always'"])

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Look up each client's fate; see :meth:`fedlama.choices.availability.base.Availability.fates`."""
        known = _by_client(self.absences)
        return [_fate(known.get(client, ()), round_index) for client in clients]


def _fate(absences: Sequence[Absence], round_index: int) -> Fate:
    """Return the first fate that the trace gives for a round."""
    matching = (absence.fate for absence in absences if absence.first_round <= round_index <= absence.last_round)
    return next(matching, "answers")


@lru_cache(maxsize=4)
def _by_client(absences: tuple[Absence, ...]) -> Mapping[int, tuple[Absence, ...]]:
    """Group absences by client; cached, because a trace is asked in every round."""
    grouped: dict[int, list[Absence]] = {}
    for absence in absences:
        grouped.setdefault(absence.client, []).append(absence)
    return {client: tuple(group) for client, group in grouped.items()}


def _read(path: Path) -> tuple[Absence, ...]:
    try:
        text = decode_text(read_whole(path, _LIMIT), str(path))
        return tuple(_absence(row) for row in _rows(path, text))
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a trace ({error}); write a JSON list of objects, or a CSV file, with the keys client, "
            "first_round, last_round and, optionally, fate"
        ) from error


def _rows(path: Path, text: str) -> list[Any]:
    if path.suffix == ".csv":
        header = text.partition("\n")[0]
        separator = ";" if ";" in header and "," not in header else ","  # as spreadsheets write it in many countries
        return list(csv.DictReader(io.StringIO(text), delimiter=separator))
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise TypeError("expected a list")
    return rows


def _absence(row: Mapping[str, Any]) -> Absence:
    if strange := set(row) - {"client", "first_round", "last_round", "fate"}:
        raise ValueError(f"unknown key {sorted(map(str, strange))[0]!r}")
    client, first, last = (int(row[key]) for key in ("client", "first_round", "last_round"))
    return Absence(client, first, last, row.get("fate") or "away")
