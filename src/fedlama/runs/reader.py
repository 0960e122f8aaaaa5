"""Reading a run folder back: its records, round by round, as the run returned them."""

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

_LONGEST = 1 << 28  # bytes of a line; one with a thousand layers and ten thousand clients has less than 1 MiB
STREAMS = ("metrics", "ledger", "layers")
"""The files that grow by one line per round."""


def read_records(folder: Path, *, layers: bool = True) -> list[RoundRecord]:
    """Read the rounds of a run folder.

    Args:
        folder: The run folder.
        layers: Whether the layers' records are needed; without them the ledger and the metrics are enough.

    Returns:
        The records of all rounds that stand whole in every file; a line cut off by a crash ends them.

    Raises:
        DataError: A file is missing, or its rounds are not 0, 1, 2, ...
    """
    without = ({"round": index, "layers": {}} for index in count())
    third = _lines(folder / "layers.jsonl") if layers else without
    lines = zip(_lines(folder / "metrics.jsonl"), _lines(folder / "ledger.jsonl"), third, strict=False)
    records = []
    for index, (metrics, ledger, layer_line) in enumerate(lines):
        if any(type(line["round"]) is not int or line["round"] != index for line in (metrics, ledger, layer_line)):
            raise DataError(
                f"{folder}: the files disagree on round {index}; they belong to different runs, run it again"
            )
        try:
            records.append(round_record(metrics, ledger, layer_line))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{folder}: round {index} is not as fedlama writes it ({cut(error)}); run it again"
            ) from error
    return records


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read the configuration of a run folder; None when there is none that can be read."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return modernise(content, ignore_renamed) if isinstance(content, dict) else None


def cut_to(path: Path, lines: int) -> None:
    """Drop everything behind the first lines of a file, whole or not."""
    with path.open("rb+") as file:
        for _ in range(lines):
            file.readline()
        file.truncate()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file."""
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
        raise DataError(f"{path} cannot be read ({error.strerror}); is this a run folder?") from error
