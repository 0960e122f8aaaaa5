"""The engine that suits the model, by a rule that measurements stand behind (docs/performance.md).

On a CPU, models whose kernels are long enough to fill a core by themselves (convolutions on images of 16x16 and more,
a million parameters and more) train one client per thread; smaller ones are bound by launches, and many clients train
in one launch. Elsewhere launches always dominate. The rule looks at the model and the data only, so a run chooses
alike wherever it is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fedlama.clients import TensorClients
from fedlama.engines.base import Work
from fedlama.engines.stacked import Stacked, StackedEngine, Workers

_LARGE_IMAGE = 16 * 16
_LARGE_MODEL = 1_000_000


def choose(work: Work) -> Literal["stacked", "workers"]:
    """Return the name of the engine that suits a federation.

    Args:
        work: The federation's fixed parts.
    """
    if work.device.type != "cpu":
        return "stacked"
    parameters = sum(p.numel() for p in work.model.parameters() if p.requires_grad)
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in work.model.modules())
    return "workers" if parameters >= _LARGE_MODEL or (convolves and _pixels(work) >= _LARGE_IMAGE) else "stacked"


def _pixels(work: Work) -> int:
    """Count the places of an input at which a convolution is computed; unknown data count as large."""
    if not isinstance(work.clients, TensorClients):
        return _LARGE_IMAGE
    return int(torch.Size(work.clients.x.shape[2:]).numel())


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
