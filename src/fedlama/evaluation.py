"""Evaluation of a model on held-out data, in large batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlama.clients import Prepare
from fedlama.errors import DataError
from fedlama.objectives import Objective, correct, cross_entropy


@dataclass(frozen=True)
class Score:
    """What an evaluation found.

    Attributes:
        accuracy: Share of correct predictions, in [0, 1].
        loss: Mean loss.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True)
class TestSet:
    """Held-out data.

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
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        loss, hits, positions = 0.0, 0, 0
        with torch.no_grad():
            for start in range(0, len(self.x), self.batch_size):
                x = self.x[start : start + self.batch_size].to(device)
                y = self.y[start : start + self.batch_size].to(device)
                output = model(x if self.prepare is None else self.prepare(x))
                loss += float(objective(output, y)) * y.numel()
                hits += int(correct(output, y))
                positions += y.numel()
        model.train(training)
        return Score(hits / positions, loss / positions)
