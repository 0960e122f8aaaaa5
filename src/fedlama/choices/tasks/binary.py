"""Yes-or-no labels: one for each sample (binary), or several (multi-label)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedlama.choices.tasks.base import Metrics, Task, aligned, logits_of, shape_problems
from fedlama.core.losses import IGNORED
from fedlama.core.measures import Better
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import normalise_numbers, one_of, refuse


@register("task", "binary")
@dataclass(frozen=True)
class Binary(Task):
    """Mean binary cross-entropy of logits, and accuracy, F1 and the area under the ROC curve.

    Outputs have shape (batch,) or (batch, 1), targets one 0 or 1 for each; a target of -100 does not count.

    Args:
        positive_weight: Weight of the loss of targets that are 1, for rare positives.
        primary: The metric by which evaluations are compared.
        target_key: The targets' entry, where batches are dicts.

    Raises:
        ConfigError: A setting is out of range.
    """

    name: ClassVar[str] = "binary"
    positive_weight: float = 1.0
    primary: Literal["accuracy", "auroc", "f1", "loss"] = "accuracy"
    target_key: str = "labels"
    direction: Better = field(init=False, default="higher", repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "primary", ("accuracy", "auroc", "f1", "loss"))
        if not self.positive_weight > 0:
            problems.append(f"positive_weight is {self.positive_weight}, expected a number above 0; raise it")
        refuse(problems)
        object.__setattr__(self, "direction", "lower" if self.primary == "loss" else "higher")

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the mean over all targets that count; 0 where none does."""
        logits, target = aligned(logits_of(output), self.target(batch))
        counts = target != IGNORED
        wanted = torch.where(counts, target, 0).to(logits.dtype)
        weight = None if self.positive_weight == 1 else logits.new_tensor(self.positive_weight)
        losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=weight)
        return torch.where(counts, losses, 0).sum() / counts.sum().clamp(min=1)

    def weight(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the number of targets that count."""
        counted: Tensor = (self.target(batch) != IGNORED).sum()
        return counted

    def metrics(self) -> Metrics:
        """Return metrics over all targets together; those of several labels are averaged over targets ("micro")."""
        from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryF1Score

        kinds = {"accuracy": BinaryAccuracy, "auroc": BinaryAUROC, "f1": BinaryF1Score}
        return {name: kind(ignore_index=IGNORED) for name, kind in kinds.items()}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Give every metric the probabilities and the targets."""
        logits, target = aligned(logits_of(output), self.target(batch))
        for metric in metrics.values():
            metric.update(logits.float().sigmoid().flatten(), target.long().flatten())

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse targets that are not 0 or 1, or not one for each output."""
        target = self.target(data)
        if problems := shape_problems(owner, logits_of(output), target, one_column=True):
            return problems
        strange = target[(target != 0) & (target != 1) & (target != IGNORED)]
        if not strange.numel():
            return []
        return [
            f"a target of {owner} is {strange.flatten()[0].item()}, expected 0 or 1 (or {IGNORED}, which does not "
            f"count) for the task {self.name!r}; correct the targets, or choose 'classification' or 'regression'"
        ]


@register("task", "multi-label")
@dataclass(frozen=True)
class MultiLabel(Binary):
    """The same for several labels per sample: outputs and targets have shape (batch, labels).

    Args:
        positive_weight: As for :class:`Binary`.
        primary: As for :class:`Binary`.
        target_key: As for :class:`Binary`.
    """

    name: ClassVar[str] = "multi-label"
    primary: Literal["accuracy", "auroc", "f1", "loss"] = "f1"
