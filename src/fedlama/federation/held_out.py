"""Held-out data, and a model's score on them, in large batches.

Losses and correct predictions are added up on the model's device, and read once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedlama.core.devices import transform_on, upload
from fedlama.core.losses import Objective, correct, cross_entropy
from fedlama.core.records import Score
from fedlama.data.clients import Prepare
from fedlama.errors import DataError


@dataclass(frozen=True)
class TestSet:
    """Held-out data.

    For a model on another device, the data are copied there in their own dtype at the first evaluation. The copy is
    kept for the next ones, as long as the test set exists.

    Args:
        x: Inputs, shape (samples, ...).
        y: Targets, shape (samples, ...).
        prepare: Applied to every batch of inputs, as on the clients.
        batch_size: Samples per forward pass.

    Raises:
        DataError: No samples, not one target for each input, or NaN or infinite inputs.
    """

    __test__ = False  # the name begins with Test, but pytest must not collect the class
    x: Tensor
    y: Tensor
    prepare: Prepare | None = None
    batch_size: int = 500
    _copies: dict[torch.device, TestSet] = field(default_factory=dict, init=False, repr=False, compare=False)

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
            model: The model; in evaluation mode during the call.
            objective: Mean loss of a batch.

        Returns:
            Accuracy and mean loss over all samples.
        """
        on_device = self._on(next(model.parameters()).device)
        training = model.training
        model.eval()
        with torch.no_grad():
            loss, hits = on_device._sums(model, objective)
        model.train(training)
        return Score(hits / self.y.numel(), loss / self.y.numel())

    def _on(self, device: torch.device) -> TestSet:
        """Return the same data on a device, copied there at most once."""
        if self.x.device == self.y.device == device:
            return self
        if device not in self._copies:
            prepare = None if self.prepare is None else transform_on(self.prepare, device)
            moved = object.__new__(TestSet)  # without checks, which would wait for the device
            moved.__dict__.update(self.__dict__, x=upload(self.x, device), y=upload(self.y, device), prepare=prepare)
            moved.__dict__["_copies"] = {}
            self._copies[device] = moved
        return self._copies[device]

    def _sums(self, model: nn.Module, objective: Objective) -> tuple[float, int]:
        """Return the sums of losses and of correct predictions over all positions, for a model on the data's device."""
        loss = torch.zeros((), dtype=torch.float64, device=self.x.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for start in range(0, len(self.x), self.batch_size):
            x, y = self.x[start : start + self.batch_size], self.y[start : start + self.batch_size]
            output = model(x if self.prepare is None else self.prepare(x))
            loss = loss + objective(output, y).double() * y.numel()
            hits = hits + correct(output, y)
        total, count = torch.cat([loss.reshape(1), hits.reshape(1).double()]).tolist()  # one read of the device
        return total, int(count)
