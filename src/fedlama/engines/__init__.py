"""Where the cohort's work runs, behind one contract; never decides what is sent and never sees the ledger."""

from collections.abc import Callable

from fedlama.engines.api import Average, Engine, EngineSetup, Values
from fedlama.engines.distributed import Distributed
from fedlama.engines.loop import LoopEngine
from fedlama.engines.options import Auto, Stacked, Workers
from fedlama.engines.stacked import StackedEngine

ENGINES: dict[str, Callable[[EngineSetup], Engine]] = {
    "loop": LoopEngine,
    "auto": Auto(),
    "stacked": Stacked(),
    "workers": Workers(),
    "distributed": Distributed(),
}
"""Engines by name."""

__all__ = [
    "ENGINES",
    "Auto",
    "Average",
    "Distributed",
    "Engine",
    "EngineSetup",
    "LoopEngine",
    "Stacked",
    "StackedEngine",
    "Values",
    "Workers",
]
