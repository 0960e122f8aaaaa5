"""A task of plain functions: the loss of outputs and targets, and one that makes the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from fedlama.choices.tasks.accuracy import Accuracy
from fedlama.choices.tasks.base import Metrics, Task
from fedlama.choices.tasks.classification import Classification
from fedlama.core.description import describe
from fedlama.core.losses import IGNORED, Objective, class_dimension, cross_entropy
from fedlama.core.measures import Better
from fedlama.core.trees import Tree, leaves


@dataclass(frozen=True)
class FunctionTask(Task):
    """A task of one or two functions; ``Federation(objective=f)`` is short for ``task=FunctionTask(f)``.

    Args:
        function: Returns the mean loss of the model's output and the target, a scalar tensor.
        make_metrics: Returns new metrics of torchmetrics by name, which are updated with the output and the target.
            Without it, the accuracy is measured where the targets are class numbers of the output.
        primary: The metric by which evaluations are compared; the loss where it is not measured.
        direction: Whether a ``"higher"`` or a ``"lower"`` value of it is better.
        target_key: The target's entry, where batches are dicts.

    >>> from torch.nn import functional
    >>> FunctionTask(functional.mse_loss, primary="loss", direction="lower").name
    'function'
    """

    name: ClassVar[str] = "function"
    function: Callable[[Any, Any], Tensor]
    make_metrics: Callable[[], Metrics] | None = None
    primary: str = "accuracy"
    direction: Better = "higher"
    target_key: str = "labels"

    def __describe__(self) -> dict[str, object]:
        """Return the fields, under the name of the loss."""
        described = {field.name: describe(getattr(self, field.name), "task.function") for field in fields(self)}
        return {"name": loss_name(described["function"]), **described}

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return what the function returns."""
        return self.function(output, self.target(batch))

    def weight(self, output: Any, batch: Tree) -> Tensor | float:  # noqa: ANN401
        """Return the number of positions that count for class numbers, and of elements of other targets."""
        target = self.target(batch)
        tensors = leaves(target)
        if isinstance(output, Tensor) and isinstance(target, Tensor) and class_dimension(output, target) is not None:
            return (target != IGNORED).sum()
        return sum(tensor.numel() for tensor in tensors)

    def metrics(self) -> Metrics:
        """Return the function's metrics, or the accuracy."""
        return {"accuracy": Accuracy()} if self.make_metrics is None else self.make_metrics()

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Give the output and the target to every metric."""
        target = self.target(batch)
        if self.make_metrics is not None:
            super().update(metrics, output, batch, loss)
        elif isinstance(output, Tensor) and isinstance(target, Tensor):
            metrics["accuracy"].update(output, target, loss)


def as_task(task: Task | Objective) -> Task:
    """Return a task, or the task of a loss: classification for plain cross-entropy, or else that of a function."""
    if not callable(task):
        return task
    return Classification() if task is cross_entropy else FunctionTask(task)


def loss_name(description: object) -> str:
    """Return the name of a loss from its description: its import path, or that of its class."""
    if isinstance(description, dict):
        return next(
            (str(description[key]) for key in ("class", "function", "partial") if key in description), "function"
        )
    return str(description)
