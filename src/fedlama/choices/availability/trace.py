"""Absences as they were recorded, or written down: a trace."""

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
from fedlama.core.registry import register
from fedlama.core.validation import at_least, one_of, refuse, whole
from fedlama.data.files import read_whole
from fedlama.errors import DataError

_LIMIT = 64 << 20
"""Bytes of a trace that are read at most."""


@dataclass(frozen=True)
class Absence:
    """One client's absence over some rounds.

    Args:
        client: The client's number.
        first_round: Its first round, from 0.
        last_round: Its last round.
        fate: ``"away"`` or ``"dies"``; see :data:`~fedlama.choices.availability.base.Fate`.
    """

    client: int
    first_round: int
    last_round: int
    fate: Literal["away", "dies"] = "away"

    def __post_init__(self) -> None:
        numbers = ("client", "first_round", "last_round")
        problems = whole(self, *numbers) or at_least(self, 0, *numbers)
        refuse(problems + one_of(self, "fate", ("away", "dies")))
        refuse(at_least(self, self.first_round, "last_round"))


@register("availability")
@dataclass(frozen=True, kw_only=True)
class Trace(Rules):
    """Clients miss the rounds that a trace says.

    Args:
        absences: The absences. A run's configuration keeps them, so that it can be repeated without the file.
        path: A file with them, read when `absences` is empty: JSON, a list of objects with the keys of
            :class:`Absence`, or CSV with those keys as its first line.
        min_replies: See :class:`~fedlama.choices.availability.rules.Rules`.
        rejoin: See :class:`~fedlama.choices.availability.rules.Rules`.

    Raises:
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
            object.__setattr__(self, "absences", _read(Path(self.path)))
        if not self.absences:
            refuse(["Trace: absences is empty and there is no path; give one of them, or choose name = 'always'"])

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Look up each client's fate; see :meth:`fedlama.choices.availability.base.Availability.fates`."""
        known = _by_client(self.absences)
        return [_fate(known.get(client, ()), round_index) for client in clients]


def _fate(absences: Sequence[Absence], round_index: int) -> Fate:
    here = (one.fate for one in absences if one.first_round <= round_index <= one.last_round)
    return next(here, "answers")


@lru_cache(maxsize=4)
def _by_client(absences: tuple[Absence, ...]) -> Mapping[int, tuple[Absence, ...]]:
    found: dict[int, tuple[Absence, ...]] = {}
    for one in absences:
        found[one.client] = (*found.get(one.client, ()), one)
    return found


def _read(path: Path) -> tuple[Absence, ...]:
    try:
        text = read_whole(path, _LIMIT).decode()
        return tuple(_absence(row) for row in _rows(path, text))
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is no trace ({error}); write a JSON list of objects, or a CSV file, with the keys client, "
            "first_round, last_round and, if wanted, fate"
        ) from error


def _rows(path: Path, text: str) -> list[Any]:
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise TypeError("it holds no list")
    return rows


def _absence(row: Mapping[str, Any]) -> Absence:
    if strange := set(row) - {"client", "first_round", "last_round", "fate"}:
        raise ValueError(f"unknown key {sorted(map(str, strange))[0]!r}")
    client, first, last = (int(row[key]) for key in ("client", "first_round", "last_round"))
    return Absence(client, first, last, row.get("fate") or "away")
