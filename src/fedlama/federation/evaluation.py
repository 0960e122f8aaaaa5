"""Evaluation of a model on held-out data, in large batches.

Losses and hits are added up where the model is, and looked at once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedlama.core.devices import transform_on, upload
from fedlama.core.losses import Objective, correct, cross_entropy
from fedlama.core.records import Score as Score
from fedlama.data.clients import Prepare
from fedlama.errors import DataError


@dataclass(frozen=True)
class TestSet:
    """Held-out data.

    A model on another device than the data brings a copy of them there, in their own dtype, at its first evaluation. It
    is kept for the next ones, as long as the test set itself.

    Args:
        x: Inputs, shape (samples, ...).
        y: Targets, shape (samples, ...).
        prepare: Applied to every batch of inputs, as on the clients.
        batch_size: Samples per forward pass.

    Raises:
        DataError: No samples, not one target for each input, or NaN or infinite inputs.
    """

    __test__ = False  # the name begins with Test; this tells pytest that it is no test case
    x: Tensor
    y: Tensor
    prepare: Prepare | None = None
    batch_size: int = 500
    _elsewhere: dict[torch.device, TestSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(
                f"the test set has {len(self.x)} inputs but {len(self.y)} targets; give one target for each input"
            )
        if len(self.x) == 0:
            raise DataError("the test set has no samples; give some, or leave test_set out")
        if self.x.is_floating_point() and not torch.isfinite(self.x).all():
            raise DataError("the test set holds NaN or infinite inputs; clean or drop those rows")

    def score(self, model: nn.Module, objective: Objective = cross_entropy) -> Score:
        """Evaluate a model.

        Args:
            model: Put into evaluation mode for the time and back.
            objective: Mean loss of a batch.

        Returns:
            Accuracy and mean loss over all samples.
        """
        here = self._on(next(model.parameters()).device)
        training = model.training
        model.eval()
        with torch.no_grad():
            loss, hits = here._sums(model, objective)
        model.train(training)
        return Score(hits / self.y.numel(), loss / self.y.numel())

    def _on(self, device: torch.device) -> TestSet:
        """Return the same data on a device, moved there at most once."""
        if self.x.device == self.y.device == device:
            return self
        if device not in self._elsewhere:
            prepare = None if self.prepare is None else transform_on(self.prepare, device)
            moved = object.__new__(TestSet)  # not checked again: that would wait for the device
            moved.__dict__.update(self.__dict__, x=upload(self.x, device), y=upload(self.y, device), prepare=prepare)
            moved.__dict__["_elsewhere"] = {}
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    def _sums(self, model: nn.Module, objective: Objective) -> tuple[float, int]:
        """Return the sums of losses and of hits over all positions; the model is where the data are."""
        loss = torch.zeros((), dtype=torch.float64, device=self.x.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for start in range(0, len(self.x), self.batch_size):
            x, y = self.x[start : start + self.batch_size], self.y[start : start + self.batch_size]
            output = model(x if self.prepare is None else self.prepare(x))
            loss = loss + objective(output, y).double() * y.numel()
            hits = hits + correct(output, y)
        total, count = torch.cat([loss.reshape(1), hits.reshape(1).double()]).tolist()  # one look for both
        return total, int(count)
