"""Who was asked and who answered: the rounds in which a client was missing, or something went wrong on the way."""

from __future__ import annotations

from typing import Any

from fedlama.flower.networklog import NAME, read_log
from fedlama.stored import StoredRun


def attendance(run: StoredRun) -> list[dict[str, Any]]:
    """Return the rounds of a run in which not all went well.

    Args:
        run: A run; a deployment's ``network.jsonl`` tells more than who was missing.

    Returns:
        Per round: its number from 0, the size of its cohort, who was missing, and what happened, one sentence each.
    """
    log = read_log(run.path / NAME)
    found = []
    for record in run.rounds:
        incidents = log.get(record.round_index, {}).get("incidents", [])
        told = [str(one) for one in incidents] if isinstance(incidents, list) else []
        if record.missing or told:
            found.append(
                {
                    "round": record.round_index,
                    "cohort": len(record.cohort),
                    "missing": list(record.missing),
                    "incidents": told,
                }
            )
    return found
