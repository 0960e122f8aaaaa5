"""What a model computes, step by step: how a model is described to :func:`fedlama.kernels.plan_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Dense:
    """A dense layer of features, or of the features at each position of a sequence; `weight` and `bias` are names."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class Convolution:
    """A convolution with zeros around; `weight` and `bias` are names."""

    weight: str
    bias: str | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True)
class MaxPool:
    """Max pooling."""

    size: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class MeanPool:
    """The mean of each window; zeros around the image count as pixels."""

    size: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class Flatten:
    """All dimensions but the batch's in one."""


@dataclass(frozen=True)
class Dropout:
    """Zeros at a rate, and the rest divided by 1 - rate."""

    rate: float


@dataclass(frozen=True)
class Norm:
    """Batch normalisation of images with scale, shift and running statistics; all but the numbers are names."""

    weight: str
    bias: str
    mean: str
    variance: str
    count: str
    momentum: float
    epsilon: float


@dataclass(frozen=True)
class GroupNorm:
    """Normalisation of each sample's images in groups of channels, with scale and shift, which are names."""

    weight: str
    bias: str
    groups: int
    epsilon: float


@dataclass(frozen=True)
class Add:
    """The sum of two activations of one shape."""


@dataclass(frozen=True)
class Mean:
    """The mean over an image's pixels: (batch, channels)."""


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation over the features of each sample, or of each position, with scale and shift, which are names."""

    weight: str
    bias: str
    epsilon: float


@dataclass(frozen=True)
class Gelu:
    """x times the probability that a standard normal number is below x."""


@dataclass(frozen=True)
class Embedding:
    """A row of the table `weight`, which is a name, for each token of a sequence."""

    weight: str


@dataclass(frozen=True)
class AddPositions:
    """The sum with the first rows of the table `weight`, which is a name: one row for each position of a sequence."""

    weight: str


@dataclass(frozen=True)
class Attention:
    """Self-attention in which no position sees a later one, of queries, keys and values side by side in the input."""

    heads: int


Operation: TypeAlias = (
    Dense
    | Convolution
    | MaxPool
    | MeanPool
    | Relu
    | Flatten
    | Dropout
    | Norm
    | GroupNorm
    | Add
    | Mean
    | LayerNorm
    | Gelu
    | Embedding
    | AddPositions
    | Attention
)


@dataclass(frozen=True)
class Step:
    """One operation; the first makes value 1, the second value 2, and value 0 is the data.

    Attributes:
        operation: What is computed.
        inputs: The numbers of the values that it takes.
    """

    operation: Operation
    inputs: tuple[int, ...]


def uses(steps: Sequence[Step]) -> list[int]:
    """Return how often each value is used.

    Args:
        steps: The model's steps.
    """
    counts = [0] * (len(steps) + 1)
    for step in steps:
        for value in step.inputs:
            counts[value] += 1
    return counts


def pool_before_relu(steps: Sequence[Step]) -> list[Step]:
    """Swap ReLU and the max pooling after it: the result is the same, and ReLU has a quarter of the work.

    Args:
        steps: The model's steps.
    """
    order, counts = list(steps), uses(steps)
    for number in range(len(order) - 1):
        here, after = order[number], order[number + 1]
        follows = after.inputs == (number + 1,) and counts[number + 1] == 1
        if isinstance(here.operation, Relu) and isinstance(after.operation, MaxPool) and follows:
            order[number], order[number + 1] = (
                replace(here, operation=after.operation),
                replace(after, operation=Relu()),
            )
    return order
