"""The log of a deployment's network, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "network.jsonl"
"""Name of the log in a run folder; only deployments have one."""


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """Read the log.

    Args:
        path: The log; it need not exist.

    Returns:
        The last whole line of every round, by the number of the round.
    """
    rounds: dict[int, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                rounds[int(record["round"])] = record
            except (ValueError, KeyError, TypeError):
                continue
    return rounds
