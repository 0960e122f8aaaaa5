"""The log of a deployment's network, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedlama.runs.files import LONGEST_LINE, open_regular, printable_json

NAME = "network.jsonl"
"""Name of the log in a run folder; only deployments have one."""


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """Read the log.

    Args:
        path: The log; it need not exist.

    Returns:
        The last whole line of every round, by the number of the round.

    Raises:
        DataError: It is something else than a regular file.
    """
    rounds: dict[int, dict[str, Any]] = {}
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return rounds
    with file:
        while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
            try:
                record = json.loads(line)
                rounds[int(record["round"])] = printable_json(record)
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
                continue
    return rounds
