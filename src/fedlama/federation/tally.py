"""A task's loss and metrics, added up over the batches of an evaluation.

Metrics are code of the user's own or of a library, so this is the one place where they are called: what fails there
becomes a sentence.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fedlama.choices.tasks import Metric, Task
from fedlama.core.losses import scalar
from fedlama.core.records import Score
from fedlama.core.trees import Tree, words
from fedlama.errors import DataError, FedlamaError, cut


class Tally:
    """Adds up the batches of one evaluation on their device, and reads the sums once.

    Args:
        task: The loss and the metrics.
        device: Where the batches are.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task = task
        self._metrics = _guarded(task, "cannot be made", lambda: {n: m.to(device) for n, m in task.metrics().items()})
        if "loss" in self._metrics:
            raise DataError(
                f"the task {task.name!r} has a metric called 'loss', which is the name of the loss; call it otherwise"
            )
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._weight = self._zero = torch.zeros_like(self._loss)
        self._last: Tree = None

    @property
    def names(self) -> list[str]:
        """The names of the metrics."""
        return list(self._metrics)

    def add(self, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401  (whatever the model returns)
        """Add a batch.

        Args:
            output: What the task's `forward` returned.
            batch: The batch, with targets as they were given.
            loss: What the task's `loss` returned.

        Raises:
            DataError: The loss is not a scalar, or a metric failed.
        """
        loss = scalar(loss)
        weight = self._zero + self._task.weight(output, batch)
        # A batch in which no position counts has no mean loss.
        self._loss = self._loss + torch.where(weight > 0, loss.double() * weight, self._zero)
        self._weight = self._weight + weight
        self._last = batch
        failed = "failed on a batch of {batch}"
        _guarded(self._task, failed, lambda: self._task.update(self._metrics, output, batch, loss), batch)

    def score(self, owner: str, *, may_be_undefined: bool = False) -> Score:
        """Return the mean loss and all metrics that could be measured.

        Args:
            owner: Whose data were evaluated, for messages, such as ``"the test set"``.
            may_be_undefined: Whether the primary metric may be NaN, as on one client's few samples of one class.

        Raises:
            DataError: A metric failed, has several values, or is NaN though the loss is finite and evaluations are
                compared by it.
        """
        measured: dict[str, Tensor] = {}
        for name, metric in self._metrics.items():
            value = _value(self._task, name, metric)
            if value is not None:
                measured[name] = value
        numbers = [value.to(self._loss) for value in measured.values()]
        total, weight, *values = torch.stack([self._loss, self._weight, *numbers]).tolist()  # one read
        task, metrics = self._task, dict(zip(measured, values, strict=True))
        if not 0 <= metrics.get("accuracy", 0.0) <= 1 and not math.isnan(metrics["accuracy"]):
            raise DataError(
                f"{owner}: the metric 'accuracy' is {metrics['accuracy']:.4g}, expected a fraction in [0, 1]; divide "
                "it, or give it another name"
            )
        known = task.primary in metrics
        score = Score(
            total / (weight or 1),
            metrics,
            task.primary if known else "loss",
            task.direction if known else "lower",
            weight,
        )
        if math.isnan(score.value) and math.isfinite(score.loss) and not may_be_undefined:
            raise DataError(
                f"{owner}: the metric {score.primary!r} is NaN, expected a number by which evaluations are compared "
                f"(the last batch: {words(self._last)}); give data on which it is defined, or another primary metric"
            )
        return score


def _value(task: Task, name: str, metric: Metric) -> Tensor | None:
    """Return a metric's value as a scalar tensor; None where it has none."""
    value = _guarded(task, f"cannot compute {name!r}", metric.compute)
    if value is None:
        return None
    try:
        number = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        number = torch.empty(0)
    if number.numel() != 1 or number.is_complex():
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise DataError(
            f"the metric {name!r} of the task {task.name!r} is {type(value).__name__}{shape}, expected one number; "
            "average it, or return one metric for each number"
        )
    return number.reshape(())


def _guarded(task: Task, what: str, call: Any, batch: Tree = None) -> Any:  # noqa: ANN401
    """Call code of a metric; an error becomes a sentence."""
    try:
        return call()
    except FedlamaError:
        raise
    except Exception as error:
        where = what.format(batch=words(batch)) if batch is not None else what
        raise DataError(
            f"the metrics of the task {task.name!r}: {where}: {type(error).__name__}: {cut(error)}; correct the "
            "metric, or choose a task that fits the data"
        ) from error
