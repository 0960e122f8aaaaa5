"""Regression: real numbers as targets, one or several for each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fedlama.choices.tasks.base import Metrics, Task, aligned, logits_of, shape_problems
from fedlama.core.measures import Better
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import normalise_numbers, one_of, refuse

Criterion = Literal["squared", "absolute", "huber"]
_PRIMARY = ("rmse", "mae", "r2", "loss")
_LOSSES: dict[Criterion, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": functional.mse_loss,
    "absolute": functional.l1_loss,
    "huber": functional.huber_loss,
}


@register("task", "regression")
@dataclass(frozen=True)
class Regression(Task):
    """Mean squared or absolute error, and its root (`rmse`), the mean absolute error (`mae`) and R squared (`r2`).

    Outputs and targets have the same shape, except that one of them may have a last dimension of 1 more. R squared is
    that of all numbers together.

    Args:
        criterion: ``"squared"``, ``"absolute"``, or ``"huber"``, which is squared up to an error of 1.
        primary: The metric by which evaluations are compared.
        target_key: The targets' entry, where batches are dicts.

    Raises:
        ConfigError: A setting is unknown.

    >>> float(Regression().loss(torch.tensor([[1.0], [4.0]]), (None, torch.tensor([1, 2]))))
    2.0
    """

    name: ClassVar[str] = "regression"
    criterion: Criterion = "squared"
    primary: Literal["rmse", "mae", "r2", "loss"] = "rmse"
    target_key: str = "labels"
    direction: Better = field(init=False, default="lower", repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "criterion", get_args(Criterion)) + one_of(self, "primary", _PRIMARY))
        object.__setattr__(self, "direction", "higher" if self.primary == "r2" else "lower")

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the mean over all numbers."""
        values, target = aligned(logits_of(output), self.target(batch))
        return _LOSSES[self.criterion](values, target.to(values.dtype))

    def weight(self, output: Any, batch: Tree) -> float:  # noqa: ANN401
        """Return the count of numbers."""
        count: int = self.target(batch).numel()
        return count

    def metrics(self) -> Metrics:
        """Return the metrics, of all numbers together."""
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

        return {"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError(), "r2": R2Score()}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Give every metric the values and the targets."""
        values, target = aligned(logits_of(output), self.target(batch))
        for metric in metrics.values():
            metric.update(values.float().flatten(), target.float().flatten())

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse targets of another shape than the output's, and targets that are not finite."""
        target = self.target(data)
        if problems := shape_problems(owner, logits_of(output), target, one_column=True):
            return problems
        if target.is_floating_point() and not torch.isfinite(target).all():
            return [f"the targets of {owner} hold NaN or infinite numbers; clean or drop those rows"]
        return []
