"""Held-out data, and a model's score on them, in large batches.

Losses and correct predictions are added up on the model's device, and read once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from fedlama.core.content import tensor_facts
from fedlama.core.devices import transform_on, upload
from fedlama.core.losses import Objective, correct, cross_entropy, scalar
from fedlama.core.records import Score
from fedlama.data.clients import Prepare, as_samples
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
        object.__setattr__(self, "x", as_samples(self.x))
        object.__setattr__(self, "y", as_samples(self.y))
        if len(self.x) != len(self.y):
            raise DataError(
                f"the test set has {len(self.x)} inputs but {len(self.y)} targets; give one target for each input"
            )
        if len(self.x) == 0:
            raise DataError("the test set has no samples; give some, or leave test_set out")
        if self.x.is_floating_point() and not torch.isfinite(self.x).all():
            raise DataError("the test set holds NaN or infinite inputs; clean or drop those rows")

    @cached_property
    def data_digests(self) -> dict[str, object]:
        """Shape, dtype and digest of the inputs and targets; computed once."""
        return {"inputs": tensor_facts(self.x), "targets": tensor_facts(self.y)}

    def score(self, model: nn.Module, objective: Objective = cross_entropy) -> Score:
        """Evaluate a model.

        Args:
            model: The model; in evaluation mode during the call.
            objective: Mean loss of a batch.

        Returns:
            Mean loss over all positions that count, and the accuracy; None where the targets are not classes.

        Raises:
            DataError: The loss is not a scalar.
        """
        on_device = self._on(next(model.parameters()).device)
        training = model.training
        model.eval()
        with torch.no_grad():
            loss, hits, count = on_device._sums(model, objective)
        model.train(training)
        return Score(None if hits is None else hits / max(count, 1), loss)

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

    def _sums(self, model: nn.Module, objective: Objective) -> tuple[float, int | None, int]:
        """Return the mean loss, the correct predictions and the positions that count, for a model on the data's device.

        Without class numbers as targets, the predictions are None and every element of the targets counts.
        """
        loss = torch.zeros((), dtype=torch.float64, device=self.x.device)
        hits, counted = torch.zeros_like(loss, dtype=torch.int64), torch.zeros_like(loss, dtype=torch.int64)
        classes = True
        for start in range(0, len(self.x), self.batch_size):
            # Copies: a forward pass or a loss that works in place must not reach the user's tensors.
            x, y = (part[start : start + self.batch_size].clone() for part in (self.x, self.y))
            targets = y.clone()
            output = model(x if self.prepare is None else self.prepare(x))
            batch_loss = scalar(objective(output, y))
            scored = correct(output, targets, batch_loss)
            classes = scored is not None
            right, count = scored if scored is not None else (hits.new_zeros(()), hits.new_tensor(targets.numel()))
            # A batch in which no position counts has no mean loss.
            loss = loss + torch.where(count > 0, batch_loss.double() * count, torch.zeros_like(loss))
            hits, counted = hits + right, counted + count
        total, right_in_all, in_all = torch.stack([loss, hits.double(), counted.double()]).tolist()  # one read
        return total / max(in_all, 1), int(right_in_all) if classes else None, int(in_all)
