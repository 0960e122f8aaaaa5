"""Read the files of a run folder: the record of every round, and the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from fedlama.core.deprecations import ignore_renamed, modernise
from fedlama.core.records import RoundRecord
from fedlama.errors import DataError, cut
from fedlama.runs.schema import round_record

_LONGEST = 1 << 28  # bytes of a line; one with 1,000 layers and 10,000 clients has less than 1 MiB
STREAMS = ("metrics", "ledger", "layers")
"""The files that get one line per round."""


def read_records(folder: Path, *, layers: bool = True) -> list[RoundRecord]:
    """Read the rounds of a run folder.

    Args:
        folder: The run folder.
        layers: Whether to read the records of the layers, from layers.jsonl.

    Returns:
        The records of all rounds that are whole in every file; a line that a crash cut off ends them.

    Raises:
        DataError: A file is missing, a line is malformed, or the rounds are not 0, 1, 2, ...
    """
    without = ({"round": index, "layers": {}} for index in count())
    third = _lines(folder / "layers.jsonl") if layers else without
    lines = zip(_lines(folder / "metrics.jsonl"), _lines(folder / "ledger.jsonl"), third, strict=False)
    records = []
    for index, (metrics, ledger, layer_line) in enumerate(lines):
        if any(type(line["round"]) is not int or line["round"] != index for line in (metrics, ledger, layer_line)):
            raise DataError(
                f"{folder}: the files disagree on round {index}, so they are of different runs; train the run again"
            )
        try:
            records.append(round_record(metrics, ledger, layer_line))
        except (KeyError, ValueError) as error:
            raise DataError(f"{folder}: round {index} is malformed ({cut(error)}); train the run again") from error
    return records


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's ``config.json`` in today's words; None when it cannot be read.

    Args:
        folder: The run folder.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return modernise(content, ignore_renamed) if isinstance(content, dict) else None


def cut_to(path: Path, lines: int) -> None:
    """Delete everything after the first lines of a file.

    Args:
        path: The file.
        lines: Number of lines to keep.
    """
    with path.open("rb+") as file:
        for _ in range(lines):
            file.readline()
        file.truncate()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file up to the first that is not whole."""
    try:
        with path.open("rb") as file:
            while (line := file.readline(_LONGEST)).endswith(b"\n"):
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError):
                    return
                if not isinstance(content, dict) or "round" not in content:
                    return
                yield content
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a run folder") from error
