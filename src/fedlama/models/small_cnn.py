"""A small convolutional network without batch norm, for quick federated experiments on small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import ConfigError
from fedlama.models.base import DatasetLike
from fedlama.models.initialise import glorot


class SmallCNN(nn.Module):
    """Two 5x5 convolutions with 2x2 pooling and two dense layers.

    Args:
        channels: Channels of the images.
        size: Height and width of the images; at least 4.
        classes: Number of classes.
        widths: Channels of the two convolutions.
        hidden: Width of the dense layer between.

    Inputs are float (B, channels, size, size), outputs logits (B, classes).

    Raises:
        ConfigError: If a size is too small.

    Source: the shape of the two-convolution CNN of McMahan et al., AISTATS 2017; the defaults suit 32x32 colour
    images, ``channels=1, size=8`` the handwritten digits that come with fedlama.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 32,
        classes: int = 10,
        widths: tuple[int, int] = (32, 64),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        if size < 4 or min(channels, classes, hidden, *widths) < 1:
            raise ConfigError(
                f"channels={channels}, size={size}, classes={classes}, widths={widths}, hidden={hidden}: "
                "size is expected to be at least 4 (it is pooled twice), the others at least 1"
            )
        self.conv1 = nn.Conv2d(channels, widths[0], 5, padding=2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5, padding=2)
        self.dense1 = nn.Linear(widths[1] * (size // 4) ** 2, hidden)
        self.dense2 = nn.Linear(hidden, classes)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, channels, size, size) to logits (B, classes)."""
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.dense1(x.flatten(1)))
        logits: Tensor = self.dense2(x)
        return logits


def small_cnn(
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    widths: tuple[int, int] = (32, 64),
    hidden: int = 512,
) -> SmallCNN:
    """Build a small CNN; see `SmallCNN`."""
    return SmallCNN(channels, size, classes, widths, hidden)


@register("model")
@dataclass(frozen=True)
class SmallCNNSettings:
    """Two convolutions and two dense layers, for square images of any size.

    Args:
        widths: Channels of the two convolutions.
        hidden: Width of the dense layer.
    """

    name: ClassVar[str] = "small-cnn"
    widths: tuple[int, int] = (32, 64)
    hidden: int = 512

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "hidden", minimum=1))

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        shape = tuple(dataset.train_x.shape[1:])
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(
                f"model 'small-cnn' takes square images (C, H, H), the data have shape {shape}; try 'mlp'"
            )
        return small_cnn(shape[0], shape[1], dataset.outputs, self.widths, self.hidden)
