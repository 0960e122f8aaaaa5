"""Segmentation: one class for every pixel, voxel or position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.tasks.accuracy import Accuracy
from fedlama.choices.tasks.base import Metric, Metrics, Task, logits_of, shape_problems
from fedlama.choices.tasks.classification import label_problems
from fedlama.core.losses import IGNORED, cross_entropy
from fedlama.core.measures import Better
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse

_PRIMARY = ("iou", "dice", "accuracy", "loss")


@register("task", "segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """Mean cross-entropy of pixels, optionally with the Dice loss, and mean IoU, mean Dice and pixel accuracy.

    Outputs are logits (batch, classes, ...), targets int class numbers (batch, ...) or (batch, 1, ...). One channel of
    output stands for the logit of class 1 against class 0. The Dice loss is 1 minus the mean over classes of
    2 |p t| / (|p| + |t|), of the batch's pixels together (Milletari et al., "V-Net", 2016, without squares). A batch in
    which no pixel counts has the loss 0 and the gradient 0.

    Args:
        ignore_index: The label of a pixel that does not count.
        dice_weight: What the Dice loss is multiplied by and added with.
        primary: The metric by which evaluations are compared; IoU and Dice are means over the classes that occur.
        target_key: The targets' entry, where batches are dicts.

    Raises:
        ConfigError: A setting is out of range.
    """

    name: ClassVar[str] = "segmentation"
    ignore_index: int = IGNORED
    dice_weight: float = 0.0
    primary: Literal["iou", "dice", "accuracy", "loss"] = "iou"
    target_key: str = "labels"
    direction: Better = field(init=False, default="higher", repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 0, "dice_weight") + one_of(self, "primary", _PRIMARY))
        object.__setattr__(self, "direction", "lower" if self.primary == "loss" else "higher")

    @property
    def loss_adds_up(self) -> bool:
        """Whether it is cross-entropy alone: the Dice loss is a ratio of sums over the batch."""
        return not self.dice_weight

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the loss of all pixels that count."""
        logits, labels = self._flat(output, batch)
        loss = cross_entropy(logits, labels, self.ignore_index)
        return loss + self.dice_weight * self._dice_loss(logits, labels) if self.dice_weight else loss

    def weight(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the number of pixels that count."""
        counted: Tensor = (self.target(batch) != self.ignore_index).sum()
        return counted

    def metrics(self) -> Metrics:
        """Return the metrics."""
        from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

        ignored = self.ignore_index
        return {
            "iou": _OfClasses(lambda count: MulticlassJaccardIndex(count, ignore_index=ignored)),
            "dice": _OfClasses(lambda count: MulticlassF1Score(count, ignore_index=ignored)),
            "accuracy": Accuracy(ignored),
        }

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Give every metric the logits and labels of all pixels."""
        logits, labels = self._flat(output, batch)
        for name, metric in metrics.items():
            metric.update(logits, labels, *([None] if name == "accuracy" else []))

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse labels that are not one class number for each pixel."""
        labels, logits = self.target(data), _with_classes(logits_of(output))
        if logits.dim() < 3:
            return [
                f"the model returns shape {('samples', *logits.shape[1:])}, expected (samples, classes, height, "
                "width); choose a model of pictures, or the task 'classification'"
            ]
        single = labels[:, 0] if labels.dim() == logits.dim() and labels.shape[1] == 1 else labels
        per_pixel = logits[:, 0]
        return shape_problems(owner, per_pixel, single) or label_problems(
            owner, single.flatten(), logits.movedim(1, -1).flatten(0, -2), self.ignore_index
        )

    def _flat(self, output: Any, batch: Tree) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return the logits, (pixels, classes), and the labels, (pixels,)."""
        logits = _with_classes(logits_of(output))
        return logits.movedim(1, -1).reshape(-1, logits.shape[1]), self.target(batch).reshape(-1).long()

    def _dice_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        counts = (labels != self.ignore_index)[:, None]
        chances = torch.where(counts, torch.softmax(logits, 1), 0)
        classes = torch.arange(logits.shape[1], device=labels.device)
        wanted = (labels[:, None] == classes).to(logits.dtype)  # (pixels, classes)
        overlap, total = (chances * wanted).sum(0), chances.sum(0) + wanted.sum(0)
        return 1 - ((2 * overlap + 1e-6) / (total + 1e-6)).mean()


class _OfClasses:
    """A metric of torchmetrics that wants the number of classes, which the first output shows.

    Args:
        make: Makes it for a number of classes.
    """

    def __init__(self, make: Callable[[int], Metric]) -> None:
        self._make = make
        self._metric: Metric | None = None

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (pixels, classes), labels (pixels,)."""
        if self._metric is None:
            self._metric = self._make(logits.shape[1]).to(logits.device)
        self._metric.update(logits.argmax(1), labels)

    def compute(self) -> Tensor | None:
        """Return the value; None before the first batch."""
        if self._metric is None:
            return None
        value: Tensor = self._metric.compute()
        return value

    def to(self, device: torch.device) -> _OfClasses:
        """Return itself; it is made on the device of the first output."""
        return self


def _with_classes(logits: Tensor) -> Tensor:
    """Return logits with at least two classes in dimension 1."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.dim() > 1 and logits.shape[1] == 1 else logits
