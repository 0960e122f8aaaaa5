"""Models whose sizes fill neither vectors nor tiles; together they need every kernel. Inputs are (2, 6, 6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from fedlama.models import char_transformer


def dense() -> nn.Module:
    """Widths that fill neither a vector nor a tile."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(72, 33), nn.ReLU(), nn.Linear(33, 17, bias=False), nn.ReLU(), nn.Linear(17, 5)
    )


def convolutions() -> nn.Module:
    """Strides, dilation, margins, windows that overlap, channels that fill no tile, no bias."""
    return nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=(2, 1)),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(9, 19, (2, 3), stride=(1, 2), padding=2, dilation=2, bias=False),
        nn.MaxPool2d((2, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def wide() -> nn.Module:
    """Whole tiles and whole vectors."""
    return nn.Sequential(
        nn.Conv2d(2, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 16), nn.Linear(16, 5)
    )


def long() -> nn.Module:
    """Dense layers that outgrow the cache, of 4 x 64 + 16 inputs and of rows that fill no tile."""
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 272), nn.ReLU(), nn.Linear(272, 245), nn.ReLU(), nn.Linear(245, 5))


def lenet() -> nn.Module:
    """Mean pooling, with windows that overlap and reach over the edge, and channels that fill no tile."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, padding=1),
        nn.Conv2d(6, 10, 2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(10, 5),
    )


def strided() -> nn.Module:
    """Zeros around the image, and no convolution whose pixels are neighbours."""
    return nn.Sequential(
        nn.Conv2d(2, 9, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(9, 8, 3, stride=2, padding=1), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip


def dropout() -> nn.Module:
    """Dropout on images, after a pooling that its gradient must not disturb, and on features."""
    return nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Conv2d(9, 8, 2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(32, 17),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(17, 5),
    )


def group_norm() -> nn.Module:
    """Groups of three, of one and of all channels, before a ReLU, before a pooling and before neither."""
    return nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=1),
        nn.GroupNorm(3, 9),
        nn.ReLU(),
        nn.Conv2d(9, 6, 2, bias=False),
        nn.GroupNorm(6, 6, eps=0.01),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 2),
        nn.GroupNorm(1, 4),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


class GroupResidual(nn.Module):
    """Group norm with and without ReLU, and sums with the identity and with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.project, self.last = nn.Conv2d(8, 12, 1, stride=2), nn.Conv2d(12, 12, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), *(nn.GroupNorm(4, 12) for _ in range(3))])
        self.dense = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        x = torch.relu(self.norms[1](self.narrow(x)) + self.norms[2](self.project(x)))
        x = torch.relu(x + self.norms[3](self.last(x)))
        logits: torch.Tensor = self.dense(x.mean(dim=(-2, -1)))
        return logits


class LayerNorms(nn.Module):
    """Layer norm and GELU of features, and an activation that is normalised and added to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(72, 33), nn.Linear(33, 33), nn.Linear(33, 5)
        self.norms, self.gelu = nn.ModuleList([nn.LayerNorm(33), nn.LayerNorm(33, eps=0.01)]), nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gelu(self.norms[0](self.first(x.flatten(1))))
        logits: torch.Tensor = self.last(functional.gelu(self.second(self.norms[1](x))))
        return logits


class Residual(nn.Module):
    """Batch norm with and without ReLU, sums with the identity and with a projection, a mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 9, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(9, momentum=0.3), *(nn.BatchNorm2d(11) for _ in range(3))])
        self.narrow = nn.Conv2d(9, 11, 3, stride=2, padding=1, bias=False)
        self.project = nn.Conv2d(9, 11, 1, stride=2)
        self.last = nn.Conv2d(11, 11, 3, padding=1)
        self.dense = nn.Linear(11, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        x = torch.relu(self.norms[1](self.narrow(x)) + self.norms[2](self.project(x)))
        x = torch.relu(x + self.norms[3](self.last(x)))
        logits: torch.Tensor = self.dense((x + x).mean(dim=(-2, -1)))
        return logits


class Branches(nn.Module):
    """The data and an activation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 5, padding=2)
        self.after, self.pool = nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, padding=1)
        self.norm, self.dense = nn.BatchNorm2d(4), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.relu(self.left(x)) + self.right(x)
        x = self.norm(self.after(both)) + both + both
        logits: torch.Tensor = self.dense(torch.flatten(self.pool(torch.relu(x)), 1))
        return logits


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a model with seeded weights."""
    torch.manual_seed(3)
    model = make()
    if make not in (winograd_first, *SEQUENCE_MODELS):
        model(torch.zeros(1, 2, 6, 6))  # fixes the size of a lazy layer
    return model


class WinogradResidual(nn.Module):
    """Gradients that meet in a convolution's input, batch norm, and filters of both sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 5, padding=2)
        self.last, self.dense = nn.Conv2d(16, 32, 3), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        x = torch.relu(self.norms[1](self.first(x)) + self.second(x) + x)
        logits: torch.Tensor = self.dense(torch.relu(self.last(x)).mean(dim=(-2, -1)))
        return logits


def winograd_plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 16, 3, padding=1), nn.Flatten(), nn.Linear(144, 5),
    )  # fmt: skip


def winograd_first() -> nn.Module:
    """The data's gradient is not asked for."""
    return nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def transformer() -> nn.Module:
    """Heads of six features, widths and a vocabulary that fill neither vectors nor tiles; for `token_clients`."""
    return char_transformer(19, 9, 24, 2, 4)


class Positions(nn.Module):
    """What else may be computed at positions: a dense layer without bias, ReLU, dropout, and no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.drop = nn.Embedding(19, 17), nn.LayerNorm(17), nn.Dropout(0.3)
        self.first, self.second, self.last = nn.Linear(17, 40), nn.Linear(40, 17, bias=False), nn.Linear(17, 19)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x)
        x = self.second(self.drop(torch.relu(self.first(self.norm(x))))) + x
        logits: torch.Tensor = self.last(x)
        return logits


SEQUENCE_MODELS: list[Callable[[], nn.Module]] = [transformer, Positions]

MODELS: list[Callable[[], nn.Module]] = [
    dense,
    convolutions,
    wide,
    long,
    lenet,
    strided,
    dropout,
    group_norm,
    GroupResidual,
    LayerNorms,
    Residual,
    Branches,
]
