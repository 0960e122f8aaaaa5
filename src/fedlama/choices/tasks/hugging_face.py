"""Models of transformers, which return their own loss when they are given labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedlama.choices.tasks.accuracy import Accuracy
from fedlama.choices.tasks.base import Metrics, Model, Task, call
from fedlama.core.losses import IGNORED
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.errors import DataError


@register("task", "huggingface")
@dataclass(frozen=True)
class HuggingFace(Task):
    """The loss that the model returns; accuracy where labels are one class for each sample.

    Batches are dicts whose entries are the arguments of the model, such as ``input_ids``, ``attention_mask`` and
    ``labels``. Whatever head a model has (classification, language modelling, tokens, spans, regression), it computes
    its loss itself, also for a batch in which no label counts; most models return NaN then, which ends the run with an
    error, so keep such batches out. Without an accuracy, evaluations are compared by the loss.

    Args:
        target_key: The labels' entry.
    """

    name: ClassVar[str] = "huggingface"
    primary = "accuracy"
    direction = "higher"
    target_key: str = "labels"

    def inputs(self, batch: Tree) -> Tree:
        """Return the whole batch, labels included."""
        return batch

    def forward(self, model: Model, batch: Tree) -> Any:  # noqa: ANN401
        """Call the model with the batch's entries."""
        if not isinstance(batch, Mapping):
            raise DataError(
                f"the batch is {type(batch).__name__}, expected a dict whose entries are the model's arguments for "
                "the task 'huggingface'; give x as a dict and y as None"
            )
        return call(model, batch)

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the loss of the model's output."""
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(loss, Tensor):
            raise DataError(
                f"the model returned {type(output).__name__} without a loss for the entries {', '.join(batch)}, but "
                f"the task 'huggingface' needs one; give the labels ({self.target_key!r}), or choose another task"
            )
        return loss

    def weight(self, output: Any, batch: Tree) -> Tensor | float:  # noqa: ANN401
        """Return the number of labels that count."""
        labels = batch.get(self.target_key)
        if not isinstance(labels, Tensor):
            return super().weight(output, batch)
        return (labels != IGNORED).sum()

    def metrics(self) -> Metrics:
        """Return the accuracy."""
        return {"accuracy": Accuracy()}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Count correct predictions, where labels are one class for each sample."""
        labels, logits = batch.get(self.target_key), getattr(output, "logits", None)
        if isinstance(labels, Tensor) and isinstance(logits, Tensor) and labels.dim() == 1 and logits.dim() == 2:
            metrics["accuracy"].update(logits, labels, None)
