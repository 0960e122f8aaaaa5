"""Language modelling: the next token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedlama.choices.tasks.accuracy import Accuracy
from fedlama.choices.tasks.base import Metrics, Task, logits_of
from fedlama.choices.tasks.classification import label_problems
from fedlama.core.losses import IGNORED
from fedlama.core.measures import Better
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import normalise_numbers, one_of, refuse
from fedlama.errors import DataError

_TOKENS = "input_ids"
"""The tokens' entry of a dict, as transformers name it."""
_PRIMARY = ("perplexity", "accuracy", "loss")


@register("task", "language-model")
@dataclass(frozen=True)
class LanguageModel(Task):
    """Mean cross-entropy of the next tokens, their perplexity (e to the mean loss) and accuracy.

    The model returns logits (batch, positions, vocabulary), or an output of transformers with `logits`. Labels of -100
    do not count. Where a batch has no labels, the tokens themselves are the labels, except those that an entry
    ``attention_mask`` marks with 0.

    Args:
        shift: Whether position t is compared with label t + 1, as transformers do it. Set it to false where labels are
            the next tokens already, as in the text sets of this package.
        primary: The metric by which evaluations are compared.
        target_key: The labels' entry, where batches are dicts.

    Raises:
        ConfigError: A setting is unknown.
    """

    name: ClassVar[str] = "language-model"
    shift: bool = True
    primary: Literal["perplexity", "accuracy", "loss"] = "perplexity"
    target_key: str = "labels"
    direction: Better = field(init=False, default="lower", repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "primary", _PRIMARY))
        object.__setattr__(self, "direction", "higher" if self.primary == "accuracy" else "lower")

    def target(self, batch: Tree) -> Tensor:
        """Return the labels; without any, the tokens."""
        if isinstance(batch, Tensor):
            return batch
        if isinstance(batch, Mapping) and self.target_key not in batch:
            tokens = batch.get(_TOKENS)
            if not isinstance(tokens, Tensor):
                raise DataError(
                    f"the batch has the entries {', '.join(map(str, batch))}, expected {self.target_key!r} or "
                    f"{_TOKENS!r} for the task 'language-model'; name the entries so, or set the task's target_key"
                )
            mask = batch.get("attention_mask")
            return tokens if mask is None else torch.where(mask != 0, tokens, IGNORED)
        labels: Tensor = super().target(batch)
        return labels

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the mean over all labels that count; 0 where none does."""
        logits, labels = self._positions(output, batch)
        total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)

    def weight(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the number of labels that count."""
        return (self._positions(output, batch)[1] != IGNORED).sum()

    def metrics(self) -> Metrics:
        """Return the metrics."""
        from torchmetrics.text import Perplexity

        return {"perplexity": Perplexity(ignore_index=IGNORED), "accuracy": Accuracy()}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Give every metric the logits and labels of all positions."""
        logits, labels = self._positions(output, batch)
        metrics["accuracy"].update(logits, labels, None)
        metrics["perplexity"].update(logits[None].float(), labels[None])

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse labels that are not tokens of the vocabulary, or not one for each position."""
        labels, logits = self.target(data), logits_of(output)
        if logits.dim() != 3 or labels.shape[1:] != logits.shape[1:2]:
            return [
                f"the model returns shape {('samples', *logits.shape[1:])} for labels of {owner} of shape "
                f"{tuple(labels.shape)}, expected (samples, positions, vocabulary) for (samples, positions); choose a "
                "model of sequences, or the task 'classification'"
            ]
        return label_problems(owner, labels.flatten(), logits.flatten(0, 1), IGNORED)

    def inputs(self, batch: Tree) -> Tree:
        """Return the tokens, and what else the model takes."""
        return batch if isinstance(batch, Tensor) else super().inputs(batch)

    def _positions(self, output: Any, batch: Tree) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return logits, (positions, vocabulary), and labels, (positions,), of all positions that have a label."""
        logits, labels = logits_of(output), self.target(batch)
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long()
