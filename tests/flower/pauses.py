"""A clock without pauses, for deployments in one process: each reply is there as soon as its request is sent."""

from __future__ import annotations

import time

import pytest


def skip_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sleep end at once and move the clock, so that deadlines pass as they would and no test waits for them.

    Args:
        monkeypatch: Restores the clock.
    """
    clock, skipped = time.monotonic, 0.0

    def sleep(seconds: float) -> None:
        nonlocal skipped
        skipped += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + skipped)
