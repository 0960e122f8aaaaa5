"""One option for every section, as a user might write them in one file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from my_helper import HIDDEN
from torch import Tensor, nn

import fedlama as fl
from fedlama.choices.aggregators import Combined
from fedlama.choices.availability import Fate, Rules
from fedlama.core.registry import register
from fedlama.data import Dataset, digits
from fedlama.engines import LoopEngine


@register("strategy")
@dataclass(frozen=True)
class LargestWaits(fl.Strategy[dict[str, int]]):
    """The largest layer is uploaded in every `wait`-th round only."""

    name: ClassVar[str] = "largest-waits"
    base_interval: int
    wait: int = 2

    @property
    def cycle_rounds(self) -> int:
        return self.wait

    def init(self, layers: fl.Layers, seed: int) -> dict[str, int]:
        largest = max(layers, key=lambda layer: layer.parameters)
        return {layer.name: self.wait if layer is largest else 1 for layer in layers}

    def plan(self, state: dict[str, int], round_index: int) -> fl.Plan:
        due = frozenset(name for name, interval in state.items() if (round_index + 1) % interval == 0)
        return fl.Plan(round_index, due, state, cycle_start=round_index % self.wait == 0)


@dataclass(frozen=True)
class SignSGD(fl.LocalSolver):
    """Steps along the signs of the gradients."""

    learning_rate: float = 0.01

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: dict[str, list[Tensor]],
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient.sign())


@dataclass(frozen=True)
class Whole(fl.Float32):
    """Everything is sent as it is."""

    name: ClassVar[str] = "whole"


@dataclass(frozen=True)
class FirstClients(fl.Sampler):
    """The first clients are the cohort."""

    count: int = 2

    def cohort_size(self, population: int) -> int:
        return self.count

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        return tuple(range(self.count))


@dataclass(frozen=True, kw_only=True)
class OddDays(Rules):
    """Client 0 is away in every second round."""

    name: ClassVar[str] = "odd-days"

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        return ["away" if client == 0 and round_index % 2 else "answers" for client in clients]


@dataclass(frozen=True)
class FirstClient(fl.Aggregator):
    """Only the first client counts."""

    def combine(
        self, layer: fl.Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        return Combined({spec.name: received[spec.name][0] for spec in layer.tensors}, 0.0)


@dataclass(frozen=True)
class HalfWay(fl.ServerOptimizer):
    """The server goes a share of the way."""

    share: float = 0.5

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: dict[str, Tensor]) -> Tensor:
        return previous + self.share * (average - previous)


class Net(nn.Module):
    """A network whose parameters are the settings."""

    def __init__(self, hidden: int = HIDDEN, bias=True, act: nn.Module = nn.ReLU()) -> None:  # noqa: ANN001, B008
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden, bias=bias), act, nn.Linear(hidden, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def build_net(dataset: Dataset, *, widths: list[int] = [8]) -> nn.Module:  # noqa: B006
    sizes = [dataset.train_x[0].numel(), *widths, dataset.classes]
    layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *layers)


@dataclass(frozen=True)
class Sized:
    """A model as a dataclass of settings."""

    hidden: int = 5

    def build(self, dataset: Dataset) -> nn.Module:
        return Net(self.hidden)


def some_digits(rows: int = 400) -> Dataset:
    whole = digits.load()
    return Dataset("some", whole.train_x[:rows], whole.train_y[:rows], whole.test_x, whole.test_y, 10)


@dataclass(frozen=True)
class ManyDigits:
    """Data as a dataclass of settings."""

    name: ClassVar[str] = "many"
    rows: int = 600

    def load(self) -> Dataset:
        return some_digits(self.rows)


@dataclass(frozen=True)
class Striped:
    """Every client gets each n-th row."""

    clients: int = 3

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> list[np.ndarray]:
        return [np.arange(client, len(dataset.train_y), self.clients) for client in range(self.clients)]


def one_layer(model: nn.Module) -> fl.Layers:
    return fl.by_mapping(model, {"all": [name for name, _ in model.named_parameters()]})


@register("engine", "slow")
class SlowEngine(LoopEngine):
    """The loop engine under another name."""


@register("codec")
@dataclass(frozen=True)
class Plain(fl.Float32):
    """A codec that is registered by its name."""

    name: ClassVar[str] = "plain"


NUMBER = 5
GENERATOR = torch.Generator()
