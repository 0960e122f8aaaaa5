"""Residual networks of any depth and width, for images of any size and number of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedlama.core.registry import register
from fedlama.core.validation import between, normalise_numbers, refuse, whole
from fedlama.errors import ConfigError, shown
from fedlama.models.base import DatasetLike
from fedlama.models.residual import BlockStyle, ResidualNetwork


@register("model")
@dataclass(frozen=True)
class ResNetSettings:
    """A residual network with batch norm: a stem, three stages of blocks, global average pooling and a dense layer.

    With ``blocks=3`` and images of three channels it is ResNet20.

    Args:
        widths: Channels of the three stages; the second and third begin with stride 2.
        blocks: Blocks per stage, each of two convolutions; 1 gives a ResNet of eight convolutions and a dense layer.
        stem: Channels of the first convolution.
        dropout: Share of activations that a block drops between its convolutions, in [0, 1).

    Raises:
        ConfigError: A value is out of range.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, in the form of
    :class:`fedlama.models.residual.ResidualNetwork`.
    """

    name: ClassVar[str] = "resnet"
    widths: tuple[int, int, int] = (16, 32, 64)
    blocks: int = 1
    stem: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "blocks", "stem", minimum=1) + between(self, 0, 1, "dropout")
        if len(self.widths) != 3 or any(not isinstance(width, int) or width < 1 for width in self.widths):
            problems.append(f"ResNetSettings: widths is {shown(self.widths)}, expected three numbers of channels")
        refuse(problems)

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        shape = tuple(dataset.train_x.shape[1:])
        if len(shape) != 3:
            raise ConfigError(
                f"model {self.name!r} takes images (channels, height, width), the data set {dataset.name!r} has rows "
                f"of shape {shape}; choose 'mlp', or other data"
            )
        style = BlockStyle(bn_eps=1e-3, dropout=self.dropout)
        return ResidualNetwork(dataset.outputs, self.widths, self.blocks, style, channels=shape[0], stem=self.stem)
