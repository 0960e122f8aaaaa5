"""The benchmark of BlazeFL's paper (arXiv:2604.03606): its sizes and models, with synthetic data of CIFAR-10's shape.

100 clients, all active, 500 images of 3x32x32 each; 5 rounds of 5 local epochs with batches of 50, SGD at a rate of 0.1
without momentum; after every round the global model is evaluated on 10,000 images, as BlazeFL's own script does. The
models are those of that script: the small CNN of PyTorch's CIFAR-10 tutorial and torchvision's ResNet-18, written again
here so that every side builds the same one. What is not known: the hardware of the published figures.

Only PyTorch is imported, as the other frameworks run in environments of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RATE = 0.1
CLASSES = 10


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run.

    Attributes:
        clients: Clients, all of them active.
        samples: Images of each client.
        batch: Images of a local step.
        epochs: Local epochs of a round.
        rounds: Rounds.
        test: Images on which the global model is evaluated after each round.
    """

    clients: int = 100
    samples: int = 500
    batch: int = 50
    epochs: int = 5
    rounds: int = 5
    test: int = 10_000

    @property
    def steps(self) -> int:
        """Local steps of a round."""
        return self.epochs * self.samples // self.batch


TINY = Sizes(clients=3, samples=8, batch=4, epochs=1, rounds=2, test=10)
"""Sizes at which a script can be tried."""


def data(sizes: Sizes) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return standardised training images and classes, client after client, and those of the test set."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    for count in (sizes.clients * sizes.samples, sizes.test):
        x = torch.randn(count, 3, 32, 32, generator=draw)
        parts.append((x, torch.randint(0, CLASSES, (count,), generator=draw)))
    return parts[0], parts[1]


def cnn() -> nn.Module:
    """Two 5x5 convolutions and three dense layers; 62,006 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, CLASSES),
    )


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to their input, which a 1x1 convolution adapts where shapes differ."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inner, height, width) to (batch, outer, height / stride, width / stride)."""
        hidden = torch.relu(self.norm1(self.first(x)))
        return torch.relu(self.norm2(self.second(hidden)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for large images, with its 7x7 stem and pooling; 11,181,642 parameters."""
    widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm=nn.BatchNorm2d(64), relu=nn.ReLU(), pool=nn.MaxPool2d(3, 2, 1)
    )
    for number, (inner, outer, stride) in enumerate(widths):
        layers[f"stage{number}"] = nn.Sequential(Block(inner, outer, stride), Block(outer, outer, 1))
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dense": nn.Linear(512, CLASSES)}
    return nn.Sequential(layers)


MODELS = {"cnn": cnn, "resnet18": resnet18}


def build(model: str) -> nn.Module:
    """Build a model with weights that are always the same."""
    torch.manual_seed(0)
    return MODELS[model]()
