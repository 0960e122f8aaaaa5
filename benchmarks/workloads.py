"""The workloads: the same model, data, optimiser and rounds for every side.

W1 to W4, G1 and G3 have compiled kernels in fedlama; G2 and G4 have none and take the general path. G4 needs
`fedlama[peft]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.models import char_transformer, leaf_cnn, mlp, resnet20, small_cnn


def _pfl_cnn() -> nn.Module:
    """The two-convolution network of pfl-research's CIFAR-10 benchmark, with its dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


class Recurrent(nn.Module):
    """Characters to classes: an embedding, two LSTM layers, and a dense layer on the last position."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(80, 8)
        self.recurrent = nn.LSTM(8, 64, num_layers=2, batch_first=True)
        self.dense = nn.Linear(64, 80)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T) to logits (B, 80)."""
        outputs, _ = self.recurrent(self.characters(x))  # (batch, time, 64)
        logits: Tensor = self.dense(outputs[:, -1])
        return logits


def _group_norm() -> nn.Module:
    """Three convolutions with GroupNorm, the usual replacement of BatchNorm in federations."""
    parts: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * 4 * 4, 10))


class BertWithAdapters(nn.Module):
    """A tiny BERT of `transformers` whose LoRA adapters (`peft`) and classifier are trained; it returns logits."""

    def __init__(self) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(
            vocab_size=1000, num_labels=4, max_position_embeddings=32, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **sizes,
        )  # fmt: skip
        adapters = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
        self.bert = get_peft_model(BertForSequenceClassification(config), adapters)

    def forward(self, x: Tensor) -> Tensor:
        """Map words (B, T) to logits (B, 4)."""
        logits: Tensor = self.bert(input_ids=x).logits
        return logits


def loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy; logits (B, T, classes) have a class at every position.

    Args:
        output: Logits, (B, classes) or (B, T, classes).
        y: Classes, (B,) or (B, T).
    """
    return functional.cross_entropy(output.flatten(0, -2), y.flatten())


@dataclass(frozen=True)
class Workload:
    """What one round consists of: every active client takes `steps` steps on `steps * batch` samples of its own.

    Attributes:
        model: Builds the model.
        shape: One input.
        classes: Number of classes.
        batch: Samples per local step.
        steps: Local steps per round.
        population: Clients in all.
        cohort: Clients per round.
        momentum: Of the clients' SGD.
        learning_rate: Of the clients' SGD.
        words: Inputs are whole numbers below this one; 0 for float32 inputs.
        at_positions: Whether every position of an input has a class.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: int
    population: int
    cohort: int
    momentum: float = 0.9
    learning_rate: float = 0.01
    words: int = 0
    at_positions: bool = False

    @property
    def samples(self) -> int:
        """Samples of one client."""
        return self.steps * self.batch

    def build(self) -> nn.Module:
        """Build the model with seeded weights."""
        torch.manual_seed(0)
        return self.model()

    def data(self) -> tuple[Tensor, Tensor, list[np.ndarray]]:
        """Return inputs and classes of a shared pool, and every client's rows of it; values do not matter."""
        pool = min(self.population * self.samples, 4096)
        rows = np.random.default_rng(0).integers(0, pool, (self.population, self.samples))
        return *self.drawn(pool), list(rows)

    def drawn(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw inputs and classes of some samples."""
        draw = torch.Generator().manual_seed(0)
        shape = (count, *self.shape)
        x = torch.randint(0, self.words, shape, generator=draw) if self.words else torch.randn(shape, generator=draw)
        return x, torch.randint(0, self.classes, shape if self.at_positions else (count,), generator=draw)


COMPILED = {
    "W1": Workload(resnet20, (3, 32, 32), 10, 32, 3, 4, 4),
    "W2": Workload(leaf_cnn, (1, 28, 28), 62, 20, 5, 8, 8),
    "W2-512": Workload(lambda: small_cnn(1, 28, 62, (32, 64), 512), (1, 28, 28), 62, 20, 5, 8, 8),
    "W3": Workload(lambda: mlp(64, (64,), 10), (1, 8, 8), 10, 16, 20, 64, 64),
    "W3c": Workload(lambda: small_cnn(1, 8, 10, (16, 32), 64), (1, 8, 8), 10, 16, 20, 64, 64),
    "W4": Workload(_pfl_cnn, (3, 32, 32), 10, 10, 5, 1000, 50, momentum=0.0, learning_rate=0.1),
}
GENERAL = {
    "G1": Workload(lambda: char_transformer(80), (80,), 80, 16, 5, 8, 8, words=80, at_positions=True),
    "G2": Workload(Recurrent, (80,), 80, 16, 5, 8, 8, words=80),
    "G3": Workload(_group_norm, (3, 32, 32), 10, 16, 5, 8, 8),
    "G4": Workload(BertWithAdapters, (24,), 4, 16, 5, 8, 8, words=1000),
}
WORKLOADS = COMPILED | GENERAL
