"""Classification: integer labels, one for each sample or for each position of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlama.choices.tasks.accuracy import Accuracy
from fedlama.choices.tasks.base import KernelLoss, Metrics, Task, logits_of
from fedlama.core.losses import IGNORED, class_dimension, cross_entropy
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import normalise_numbers, refuse


@register("task", "classification")
@dataclass(frozen=True)
class Classification(Task):
    """Mean cross-entropy, and accuracy.

    A batch in which no label counts has the loss 0 and the gradient 0, so the client's model stays as it is but for
    weight decay and momentum.

    Args:
        ignore_index: The label of a position that does not count, such as padding.
        class_weights: One weight for each class, for rare classes; the mean is then over the weights of the labels.
        label_smoothing: Probability mass in [0, 1) that is spread over all classes.
        target_key: The labels' entry, where batches are dicts.

    Raises:
        ConfigError: A number is out of range.
    """

    name: ClassVar[str] = "classification"
    primary = "accuracy"
    direction = "higher"
    ignore_index: int = IGNORED
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    target_key: str = "labels"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = []
        if not 0 <= self.label_smoothing < 1:
            problems.append(f"label_smoothing is {self.label_smoothing}, expected 0 or more and less than 1; change it")
        if self.class_weights is not None and (not self.class_weights or min(self.class_weights) < 0):
            problems.append(f"class_weights is {self.class_weights}, expected one weight of 0 or more for each class")
        refuse(problems)

    @property
    def kernel_loss(self) -> KernelLoss:
        """Plain cross-entropy, unless a subclass or a setting changes it."""
        plain = self.ignore_index == IGNORED and self.class_weights is None and self.label_smoothing == 0
        unchanged = all(
            getattr(type(self), method) is getattr(Classification, method)
            for method in ("inputs", "target", "forward", "loss")
        )
        return "cross_entropy" if plain and unchanged else "other"

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the mean cross-entropy; see :func:`fedlama.core.losses.cross_entropy`."""
        settings = (self.ignore_index, self.class_weights, self.label_smoothing)
        return cross_entropy(logits_of(output), self.target(batch), *settings)

    def weight(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the number of labels that count, or the sum of their classes' weights."""
        target: Tensor = self.target(batch).reshape(-1)
        counted = target != self.ignore_index
        if self.class_weights is None:
            return counted.sum()
        weights = torch.tensor(self.class_weights, device=target.device)
        return torch.where(counted, weights[torch.where(counted, target, 0).long()], 0.0).sum()

    def metrics(self) -> Metrics:
        """Return the accuracy."""
        return {"accuracy": Accuracy(self.ignore_index)}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Count the correct predictions."""
        plain = self.class_weights is None and not self.label_smoothing
        metrics["accuracy"].update(logits_of(output), self.target(batch), loss if plain else None)

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse labels that are not class numbers of the output, and weights for another number of classes."""
        if not isinstance(output, Tensor) and not hasattr(output, "logits"):
            return [
                f"the model returns {type(output).__name__}, expected a tensor of logits; give an objective that takes "
                "what it returns, or wrap the model so that it returns the logits"
            ]
        logits, labels = logits_of(output), self.target(data)
        problems = label_problems(owner, labels, logits, self.ignore_index)
        classes = logits.shape[class_dimension(logits, labels[: len(logits)]) or 0]
        if not problems and self.class_weights is not None and len(self.class_weights) != classes:
            problems.append(
                f"class_weights has {len(self.class_weights)} weights, but the model has {classes} classes; give one "
                "for each class"
            )
        return problems


def label_problems(owner: str, labels: Tensor, output: Tensor, ignore_index: int = IGNORED) -> list[str]:
    """Return why labels are not class numbers of an output.

    Args:
        owner: Whose labels they are.
        labels: All labels.
        output: The logits of some samples.
        ignore_index: The label of a position that does not count.
    """
    first = labels[: len(output)]
    dimension = class_dimension(output[: len(first)], first)
    if dimension is None:
        return [
            f"the labels of {owner} have shape {tuple(labels.shape)} ({labels.dtype}), expected integer class numbers, "
            f"one for each prediction of the model's output {('samples', *output.shape[1:])}; convert one-hot labels "
            "with y.argmax(-1), or give an objective that fits these labels"
        ]
    counted = labels[labels != ignore_index]
    if not counted.numel():
        return [f"every label of {owner} is {ignore_index}, which marks positions that do not count; give labels"]
    low, high, classes = int(counted.min()), int(counted.max()), output.shape[dimension]
    if low >= 0 and high < classes:
        return []
    return [
        f"the labels of {owner} run from {low} to {high}, but the model has {classes} classes (0 to {classes - 1}); "
        "correct the labels or the model's number of classes"
    ]
