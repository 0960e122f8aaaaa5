"""The `[model]` section of an experiment: which network, shaped to the data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import nn

from fedlama import models
from fedlama.core.validation import at_least, refuse
from fedlama.data.arrays import Dataset
from fedlama.errors import ConfigError


class Architecture(Protocol):
    """Settings that can build a model for a data set, with torch's global generator."""

    name: ClassVar[str]

    def build(self, dataset: Dataset) -> nn.Module:
        """Build it; raises ConfigError when the data set has the wrong shape."""


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU on flattened inputs.

    Args:
        hidden: Widths of the hidden layers.
    """

    name: ClassVar[str] = "mlp"
    hidden: tuple[int, ...] = (64,)

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        return models.mlp(math.prod(dataset.train_x.shape[1:]), self.hidden, dataset.classes)


@dataclass(frozen=True)
class LeafCNN:
    """LEAF's FEMNIST network for 28x28 grey images."""

    name: ClassVar[str] = "leaf-cnn"

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        _expect(self.name, dataset, (1, 28, 28))
        return models.leaf_cnn(dataset.classes)


@dataclass(frozen=True)
class SmallCNN:
    """Two convolutions and two dense layers, for square images of any size.

    Args:
        widths: Channels of the two convolutions.
        hidden: Width of the dense layer.
    """

    name: ClassVar[str] = "small-cnn"
    widths: tuple[int, int] = (32, 64)
    hidden: int = 512

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "hidden"))

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        shape = tuple(dataset.train_x.shape[1:])
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(
                f"model 'small-cnn' takes square images (C, H, H), the data have shape {shape}; try 'mlp'"
            )
        return models.small_cnn(shape[0], shape[1], dataset.classes, self.widths, self.hidden)


@dataclass(frozen=True)
class ResNet20:
    """ResNet-20 as the paper uses it on CIFAR-10.

    Args:
        same_padding: ``"tensorflow"`` pads strided convolutions as the authors' framework did.
    """

    name: ClassVar[str] = "resnet20"
    same_padding: Literal["torch", "tensorflow"] = "torch"

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        _expect(self.name, dataset, (3, 32, 32))
        return models.resnet20(dataset.classes, self.same_padding)


@dataclass(frozen=True)
class WideResNet:
    """WideResNet; 28-10 by default, as the paper uses it on CIFAR-100.

    Args:
        depth: 6 n + 4 layers.
        widen: Width factor.
        dropout: Share of activations dropped between the convolutions of a block.
    """

    name: ClassVar[str] = "wide-resnet"
    depth: int = 28
    widen: int = 10
    dropout: float = 0.0

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        _expect(self.name, dataset, (3, 32, 32))
        return models.wide_resnet(dataset.classes, self.depth, self.widen, self.dropout)


@dataclass(frozen=True)
class CharTransformer:
    """A small causal transformer over characters.

    Args:
        width: Numbers per position.
        blocks: Transformer blocks.
        heads: Attention heads per block.
    """

    name: ClassVar[str] = "char-transformer"
    width: int = 64
    blocks: int = 2
    heads: int = 4

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network."""
        if dataset.train_y.ndim != 2:
            raise ConfigError(
                "model 'char-transformer' continues sequences, but the data have one label per row; use data 'text'"
            )
        length = dataset.train_x.shape[1]
        return models.char_transformer(dataset.classes, length, self.width, self.blocks, self.heads)


def _expect(name: str, dataset: Dataset, shape: tuple[int, ...]) -> None:
    found = tuple(dataset.train_x.shape[1:])
    if found != shape:
        raise ConfigError(
            f"model {name!r} takes images of shape {shape}, the data set {dataset.name!r} has {found}; "
            "choose 'small-cnn' or 'mlp', or other data"
        )
