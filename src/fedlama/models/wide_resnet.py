"""WRN-28-10, the wide residual network of the CIFAR-100 experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers
from fedlama.errors import ConfigError
from fedlama.models.base import DatasetLike, expect_shape
from fedlama.models.residual import BlockStyle, ResidualNetwork
from fedlama.models.same_conv import SamePadding


def wide_resnet(
    classes: int = 100,
    depth: int = 28,
    widen: int = 10,
    dropout: float = 0.0,
    same_padding: SamePadding = "torch",
) -> ResidualNetwork:
    """Build a wide residual network as the authors of FedLAMA did.

    Args:
        classes: Number of classes.
        depth: Convolutions on the longest path; 6 n + 4 for n blocks per stage.
        widen: Factor on the widths 16, 32, 64.
        dropout: Share dropped inside each block; the authors' code has 0.3.
        same_padding: ``"tensorflow"`` pads the stride-2 convolutions as the authors' framework did.

    Returns:
        A model from float (B, 3, H, W) to logits (B, classes). At the defaults: 29 kernels with 36,518,832
        parameters, 36,539,124 trainable parameters.

    Raises:
        ConfigError: If the depth is not 6 n + 4, or a setting is out of range.

    Source: Zagoruyko and Komodakis, BMVC 2016, in the authors' variant, whose parameter count it reproduces: batch
    norm after each convolution (not before), a projection with batch norm at the head of each stage, eps 1e-5.
    Deviation: it returns logits; the authors' ends in a softmax although their loss expects logits.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ConfigError(f"depth is {depth}, expected 6 n + 4 with n >= 1: 10, 16, 22, 28, 40 ...")
    widths = (16 * widen, 32 * widen, 64 * widen)
    return ResidualNetwork(classes, widths, (depth - 4) // 6, BlockStyle(1e-5, dropout, same_padding))


@register("model")
@dataclass(frozen=True)
class WideResNetSettings:
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

    def __post_init__(self) -> None:
        normalise_numbers(self)

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        expect_shape(self.name, dataset, (3, 32, 32))
        return wide_resnet(dataset.outputs, self.depth, self.widen, self.dropout)
