"""A clock without pauses, for deployments in one process: each reply is there as soon as its request is sent."""

from __future__ import annotations

import threading
import time

import pytest


def skip_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sleep end at once and move the clock, so that deadlines pass as they would and no test waits for them.

    Only the calling thread is concerned. One that a library has left behind, and that sleeps again and again, would
    otherwise move the clock past every deadline.

    Args:
        monkeypatch: Restores the clock.
    """
    clock, sleep, skipped, caller = time.monotonic, time.sleep, 0.0, threading.get_ident()

    def skip(seconds: float) -> None:
        nonlocal skipped
        if threading.get_ident() == caller:
            skipped += seconds
        else:
            sleep(seconds)

    def moved() -> float:
        return clock() + (skipped if threading.get_ident() == caller else 0.0)

    monkeypatch.setattr(time, "sleep", skip)
    monkeypatch.setattr(time, "monotonic", moved)
