"""The engine that suits the model, by a rule that measurements stand behind (docs/performance.md).

On a CPU, what has a compiled form (:mod:`fedlama.engines.compiled`) takes it. Of the others, models whose kernels are
long enough to fill a core by themselves (:mod:`fedlama.engines.sizes`) train one client per thread; smaller ones are
bound by launches, and many clients train in one launch. Elsewhere launches always dominate. The rule looks at the
federation and at whether Numba is installed, never at a clock, so a run chooses alike wherever it is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlama.engines.base import Work
from fedlama.engines.compiled import compiled_form
from fedlama.engines.sizes import is_large
from fedlama.engines.stacked import Stacked, StackedEngine, Workers


def choose(work: Work) -> Literal["stacked", "workers"]:
    """Return the name of the engine that suits a federation.

    Args:
        work: The federation's fixed parts.
    """
    if work.device.type != "cpu" or compiled_form(work) is not None:
        return "stacked"
    return "workers" if is_large(work.model, work.clients) else "stacked"


@dataclass(frozen=True)
class Auto:
    """Options of the engine that chooses; calling it with a federation's work builds what it chose.

    Args:
        state_dir: As for :class:`~fedlama.engines.Stacked`.
    """

    state_dir: str | None = None

    def __call__(self, work: Work) -> StackedEngine:
        """Choose and build; the engine's `label` tells what was chosen."""
        if choose(work) == "workers":
            return Workers(state_dir=self.state_dir)(work)
        return Stacked(state_dir=self.state_dir)(work)
