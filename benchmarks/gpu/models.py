"""Federations of other models than ResNet-20: small ones, for which `auto` has a choice, a large one, and text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

import fedlama as fl
from benchmarks.gpu.cohorts import Cohort, alike, engine_of, rounds
from benchmarks.gpu.setting import Numbers, Setting, Values
from benchmarks.workloads import WORKLOADS
from fedlama.models import char_transformer, wide_resnet

SMALL = {"mlp-64": ("W3", 64), "mlp-1024": ("W3", 1024), "small-cnn": ("W3c", 128), "leaf-cnn": ("W2", 64)}
"""Workload and number of clients of each small federation."""
CHARACTERS = 90
"""Vocabulary of the models of text, as in LEAF's Shakespeare."""


def small(setting: Setting, numbers: Numbers, name: str, kind: str) -> Values:
    """Time a small federation.

    Args:
        setting: How to measure.
        numbers: What is computed in.
        name: A key of :data:`SMALL`.
        kind: The engine.
    """
    workload, clients = SMALL[name]
    given = replace(WORKLOADS[workload], population=setting.size(clients, 3), cohort=setting.size(clients, 3))
    given = replace(given, steps=setting.size(given.steps, 2), batch=setting.size(given.batch, 2))
    source = alike(given.shape, given.classes, given.cohort, given.batch, given.steps)
    cohort = Cohort(given.build, source, given.steps, given.cohort)
    return rounds(setting, cohort, engine_of(kind, numbers), setting.seconds / 3)


class Recurrent(nn.Module):
    """Two layers of LSTM over characters: logits of the next one at every position, from (batch, time)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, 8)
        self.recurrent = nn.LSTM(8, width, num_layers=2, batch_first=True)
        self.output = nn.Linear(width, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        """Map characters (batch, time) to logits (batch, time, characters)."""
        logits: Tensor = self.output(self.recurrent(self.characters(x))[0])
        return logits


def text(setting: Setting, numbers: Numbers, model: str, kind: str) -> Values:
    """Time 32 clients with a model of text; a sample is a sequence.

    Args:
        setting: How to measure.
        numbers: What is computed in.
        model: ``"gpt"``, a transformer of four blocks and 256 features, or ``"lstm"``.
        kind: The engine.
    """
    clients, batch, steps, time = setting.size(32, 2), setting.size(16, 2), setting.size(4, 2), setting.size(80, 6)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, CHARACTERS, (clients * batch * steps, time + 1), generator=draw)
    rows = list(np.arange(len(tokens)).reshape(clients, -1))
    source = fl.TensorClients(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), rows, batch)
    width, blocks = setting.size(256, 8), setting.size(4, 1)
    make = {
        "gpt": lambda: char_transformer(CHARACTERS, time, width, blocks, 4),
        "lstm": lambda: Recurrent(width),
    }[model]
    return rounds(setting, Cohort(make, source, steps, clients), engine_of(kind, numbers))


def wide(setting: Setting, numbers: Numbers, kind: str) -> Values:
    """Time WRN-28-10 with 16 clients, batch 32 and 2 steps."""
    clients, batch = setting.size(16, 2), setting.size(32, 2)
    depth, widen = setting.size(28, 10), setting.size(10, 1)
    source = alike((3, 32, 32), 100, clients, batch, 2)
    cohort = Cohort(lambda: wide_resnet(100, depth, widen), source, 2, clients)
    return rounds(setting, cohort, engine_of(kind, numbers))
