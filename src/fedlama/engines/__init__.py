"""Where the work runs: engines behind one contract."""

from collections.abc import Callable

from fedlama.engines.base import Average, Engine, Values, Work
from fedlama.engines.loop import LoopEngine

ENGINES: dict[str, Callable[[Work], Engine]] = {"loop": LoopEngine}
"""Engines by name."""

__all__ = ["ENGINES", "Average", "Engine", "LoopEngine", "Values", "Work"]
