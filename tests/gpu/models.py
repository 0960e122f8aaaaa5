"""Models of every kind that a GPU is to train, with data for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.models import ResidualNetwork, char_transformer, small_cnn
from fedlama.models.residual import BlockStyle

TIME, CHARACTERS, SAMPLES = 7, 11, 60
SIZES = (12, 10, 14, 12, 7)
"""Samples of each client: with a batch of 4 there are short last batches of 2 and of 3."""


class Recurrent(nn.Module):
    """Two layers of LSTM: logits of the next character at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 6)
        self.recurrent = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.output = nn.Linear(8, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        """Map characters (batch, time) to logits (batch, time, characters)."""
        logits: Tensor = self.output(self.recurrent(self.embedding(x))[0])
        return logits


class Attending(nn.Module):
    """PyTorch's own encoder layer, with dropout: 5-class logits from images."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(12, 3, 16, dropout, batch_first=True)
        self.output = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 2, 6, 6) to logits; a row of pixels of both channels is a position."""
        rows = x.permute(0, 2, 1, 3).flatten(2)  # (batch, 6 positions, 12 features)
        logits: Tensor = self.output(self.encoder(rows).flatten(1))
        return logits


def dense() -> nn.Module:
    """A chain of dense layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5))


def cnn() -> nn.Module:
    """Two convolutions with pooling, a chain too."""
    return small_cnn(2, 6, 5, (4, 6), 12)


def resnet() -> nn.Module:
    """A residual network with BatchNorm and a stride."""
    return ResidualNetwork(5, (4, 6, 8), 1, BlockStyle(bn_eps=1e-3), channels=2, stem=4)


def group_norm() -> nn.Module:
    """Convolutions with GroupNorm and weights that are shared by two layers."""
    conv = nn.Conv2d(4, 4, 3, padding=1)
    norm = nn.GroupNorm(2, 4)
    head = [nn.Flatten(), nn.Linear(144, 5)]
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), conv, nn.ReLU(), conv, *head)


def dropping() -> nn.Module:
    """Dense layers with dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 5))


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "dense": dense,
    "cnn": cnn,
    "resnet": resnet,
    "group norm": group_norm,
    "attention": lambda: Attending(0.0),
}
TEXT: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: char_transformer(CHARACTERS, TIME, 8, 1, 2),
    "lstm": Recurrent,
}
DRAWING: dict[str, Callable[[], nn.Module]] = {"dropout": dropping, "attention with dropout": lambda: Attending(0.3)}
"""Models with dropout, whose masks are other ones on the CPU."""


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a model with weights that are always the same."""
    torch.manual_seed(0)
    return make()


def texts() -> fl.TensorClients:
    """Clients with sequences and the next character at each position."""
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, CHARACTERS, (sum(SIZES), TIME + 1), generator=draw)
    ends = np.cumsum((0, *SIZES))
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    return fl.TensorClients(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), rows, 4)


def hugging_face() -> dict[str, Any]:
    """A tiny BERT that computes its loss itself, with batches that are dicts; dropout is off."""
    transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=CHARACTERS, max_position_embeddings=12, num_labels=3, **sizes, **none)
    draw = torch.Generator().manual_seed(3)
    data = {
        "input_ids": torch.randint(0, CHARACTERS, (SAMPLES, TIME), generator=draw),
        "attention_mask": (torch.arange(TIME) < torch.randint(2, TIME + 1, (SAMPLES, 1), generator=draw)).long(),
        "labels": torch.randint(0, 3, (SAMPLES,), generator=draw),
    }
    rows = [np.arange(0, 18), np.arange(18, 40), np.arange(40, 60)]
    return {
        "model": seeded(lambda: transformers.BertForSequenceClassification(config)),
        "clients": fl.TensorClients(data, None, rows, 6),
        "task": fl.HuggingFace(),
        "sampler": fl.AllClients(),
        "local_steps": 8,
    }
