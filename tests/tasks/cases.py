"""A small federation for every task of this package, with batches of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fedlama as fl


class Tokens(nn.Module):
    """Logits of the next token at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.embedding(input_ids))
        return logits


@dataclass
class Output:
    """What a model of transformers returns."""

    loss: Tensor | None
    logits: Tensor


class OwnLoss(nn.Module):
    """A model that computes its loss itself, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.dense(features)
        return Output(None if labels is None else nn.functional.cross_entropy(logits, labels), logits)


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        logits: Tensor = self.left(left) + self.right(right)
        return logits


@dataclass(frozen=True)
class Case:
    """A task, a model, and all samples."""

    task: fl.Task
    model: Callable[[], nn.Module]
    x: Any
    y: Any = None


_DRAW = torch.Generator().manual_seed(5)
X = torch.randn(60, 6, generator=_DRAW)
MORE = torch.randn(60, 2, generator=_DRAW)
IMAGES = torch.randn(60, 1, 4, 4, generator=_DRAW)
TOKENS = torch.randint(0, 11, (60, 7), generator=_DRAW)
MASK = (torch.arange(7) < torch.randint(2, 8, (60, 1), generator=_DRAW)).long()
CLASSES = torch.randint(0, 3, (60,), generator=_DRAW)
TIMES = torch.stack([(torch.arange(60) % 4 > 0).float(), torch.randint(1, 9, (60,), generator=_DRAW).float()], 1)

CASES = {
    "classification": Case(fl.Classification(), lambda: nn.Linear(6, 3), X, CLASSES),
    "classification with weights": Case(
        fl.Classification(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1), lambda: nn.Linear(6, 3), X, CLASSES
    ),
    "classification of dicts": Case(fl.Classification(), Two, {"left": X, "right": MORE, "labels": CLASSES}),
    "classification of two inputs": Case(fl.Classification(), Two, (X, MORE, CLASSES)),
    "binary": Case(fl.Binary(positive_weight=2), lambda: nn.Linear(6, 1), X, (X[:, 0] > 0).long()),
    "multi-label": Case(fl.MultiLabel(), lambda: nn.Linear(6, 4), X, (X[:, :4] > 0).float()),
    "regression": Case(fl.Regression(criterion="huber"), lambda: nn.Linear(6, 1), X, X.sum(1)),
    "segmentation": Case(
        fl.Segmentation(dice_weight=0.5), lambda: nn.Conv2d(1, 2, 3, padding=1), IMAGES, (IMAGES[:, 0] > 0).long()
    ),
    "language-model": Case(fl.LanguageModel(), Tokens, {"input_ids": TOKENS, "attention_mask": MASK}),
    "cox": Case(fl.Cox(), lambda: nn.Linear(6, 1), X, TIMES),
    "huggingface": Case(fl.HuggingFace(), OwnLoss, {"features": X, "labels": CLASSES}),
    "functions": Case(fl.FunctionTask(nn.functional.mse_loss), lambda: nn.Linear(6, 2), X, MORE),
}


def federation(name: str, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """Put together the federation of a case: three clients of unequal sizes and with short last batches."""
    case = CASES[name]
    torch.manual_seed(0)
    rows = [np.arange(0, 17), np.arange(17, 38), np.arange(38, 60)]
    settings: dict[str, Any] = {
        "model": case.model(),
        "clients": fl.TensorClients(case.x, case.y, rows, 7),
        "strategy": fl.FedLAMA(2, 2),
        "local_steps": 8,
        "solver": fl.SGD(0.05, momentum=0.9),
        "task": case.task,
        "test_set": fl.TestSet(case.x, case.y, batch_size=25),
        "evaluate_every": 2,
    }
    return fl.Federation(**(settings | changes))
