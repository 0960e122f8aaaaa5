"""Where the cohort's work runs, behind one contract; never decides what is sent and never sees the ledger."""

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from fedlama.core.registry import registered
from fedlama.engines.api import Average, Engine, EngineSetup, Values
from fedlama.engines.distributed import Distributed
from fedlama.engines.loop import LoopEngine
from fedlama.engines.options import Auto, Recorded, Stacked, Workers
from fedlama.engines.stacked import StackedEngine

EngineFactory = Callable[[EngineSetup], Engine]
"""What makes an engine: an engine's class, or an object with options such as ``Stacked(chunk=16)``."""


def make_factory(option: Callable[..., Any]) -> EngineFactory:
    """Return the factory of a registered engine: a dataclass holds options and is made with their defaults."""
    made: EngineFactory = option() if is_dataclass(option) else option  # type: ignore[assignment]
    return made


ENGINES: dict[str, EngineFactory] = {
    name: make_factory(option) for name, option in registered("engine", "fedlama.engines").items()
}
"""Engines by name, one per registered class of this package."""

__all__ = [
    "ENGINES",
    "Auto",
    "Average",
    "Distributed",
    "Engine",
    "EngineFactory",
    "EngineSetup",
    "LoopEngine",
    "Recorded",
    "Stacked",
    "StackedEngine",
    "Values",
    "Workers",
    "make_factory",
]
