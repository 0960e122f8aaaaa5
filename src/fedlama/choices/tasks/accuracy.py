"""The accuracy of classification: the fraction of positions whose largest logit is that of the target."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlama.core.losses import IGNORED, correct


class Accuracy:
    """A metric as torchmetrics has them, for outputs whose classes may be in any dimension.

    torchmetrics wants the number of classes and their dimension beforehand; :func:`fedlama.core.losses.correct` finds
    both. Its two counts stay on the model's device until the value is read.

    Args:
        ignore_index: The target of a position that does not count.
    """

    def __init__(self, ignore_index: int = IGNORED) -> None:
        self._ignored = ignore_index
        self._hits: Tensor | None = None
        self._counted: Tensor | None = None
        self._classes = True

    def update(self, output: Tensor, target: Tensor, loss: Tensor | None) -> None:
        """Add a batch; see :func:`fedlama.core.losses.correct`."""
        scored = correct(output, target, loss, self._ignored)
        self._classes = scored is not None
        if scored is not None:
            self._hits = scored[0] if self._hits is None else self._hits + scored[0]
            self._counted = scored[1] if self._counted is None else self._counted + scored[1]

    def compute(self) -> Tensor | None:
        """Return the fraction, float64; None where the targets were not classes of the output."""
        if not self._classes or self._hits is None or self._counted is None:
            return None
        return self._hits.to(torch.float64) / self._counted.clamp(min=1).to(torch.float64)

    def to(self, device: torch.device) -> Accuracy:
        """Return itself; its counts are where the outputs are."""
        return self
