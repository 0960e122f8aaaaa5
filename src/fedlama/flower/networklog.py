"""The network's log of a run: one line of JSON per round, beside the ledger in the run folder.

A round that was repeated after a restart has several lines; the last one counts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fedlama.flower.exchange import Exchange
from fedlama.flower.memory import EngineMemory

NAME = "network.jsonl"


def write_line(path: Path, exchange: Exchange, memory: EngineMemory, seconds: float) -> None:
    """Append a round.

    Args:
        path: The log.
        exchange: What the round's exchange brought.
        memory: What the engine remembers after it.
        seconds: How long the exchange took.
    """
    rounds = [order.round_index for order in exchange.sent]
    line = {
        "round": rounds[0] if rounds else None,
        "ended": time.time(),
        "seconds": seconds,
        "cohort": memory.cohort,
        "orders": [order.client for order in exchange.sent],
        "answered": sorted(exchange.receipts),
        "replayed": sorted(client for client, receipt in exchange.receipts.items() if receipt.replayed),
        "missing": sorted(exchange.missing),
        "excluded": sorted(memory.excluded),
        "bytes_down": sum(len(order.payload) for order in exchange.sent),
        "incidents": exchange.incidents,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """Read the log.

    Args:
        path: The log; it need not exist.

    Returns:
        Round to its last whole line.
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
