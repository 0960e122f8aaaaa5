"""Runs that are done already: found by their configuration, and taken instead of training again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedlama.errors import DataError
from fedlama.records import Result
from fedlama.runfiles import read_config
from fedlama.stored import load_run


def finished_before(path: Path, config: Mapping[str, object], rounds: int) -> tuple[Result, dict[str, object]] | None:
    """Find the finished run of a configuration.

    Args:
        path: The run folder; it need not exist.
        config: The resolved configuration, without versions and commit.
        rounds: Number of rounds that the run has.

    Returns:
        The run and its summary; None when it is not there whole.
    """
    stored = read_config(path)
    wanted = json.loads(json.dumps(dict(config)))
    if stored is None or {key: stored.get(key) for key in wanted} != wanted:
        return None
    if not (path / "summary.json").exists():
        return None
    try:
        run = load_run(path)
        result = run.result()
    except DataError:
        return None
    return (result, {**run.summary, "run_folder": str(path)}) if len(result.rounds) == rounds else None
