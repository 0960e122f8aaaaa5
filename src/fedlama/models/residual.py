"""The residual networks of the FedLAMA experiments; ResNet20 and WRN-28-10 are two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlama.errors import ConfigError
from fedlama.models.initialise import glorot
from fedlama.models.same_conv import SameConv2d, SamePadding

BN_MOMENTUM = 0.01  # the weight of the new value in PyTorch; Keras's default, 0.99, is the weight of the old one


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a network have in common.

    Args:
        bn_eps: Batch norm's epsilon.
        dropout: Share of activations dropped between the two convolutions of a block, in [0, 1). Above 0, vmap needs
            ``randomness="different"``.
        same_padding: ``"torch"`` or ``"tensorflow"``; see `SameConv2d`.
    """

    bn_eps: float
    dropout: float = 0.0
    same_padding: SamePadding = "torch"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut, then ReLU.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Step of the first convolution and of the projection.
        projection: Whether the shortcut is a 1x1 convolution with batch norm instead of the identity.
        style: See `BlockStyle`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool, style: BlockStyle) -> None:
        super().__init__()
        self.conv1 = SameConv2d(inputs, outputs, 3, stride, style.same_padding)
        self.bn1 = nn.BatchNorm2d(outputs, style.bn_eps, BN_MOMENTUM)
        # Without dropout there is no module either, so that vmap over clients needs no randomness mode.
        self.dropout = nn.Dropout(style.dropout) if style.dropout > 0 else None
        self.conv2 = SameConv2d(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs, style.bn_eps, BN_MOMENTUM)
        # With gamma = 0 every block starts as its shortcut (Goyal et al., 2017), as in the authors' model.
        nn.init.zeros_(self.bn2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if projection:
            conv = SameConv2d(inputs, outputs, 1, stride, style.same_padding)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs, style.bn_eps, BN_MOMENTUM))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = torch.relu(self.bn1(self.conv1(x)))
        if self.dropout is not None:
            y = self.dropout(y)
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A 3x3 stem, three stages of residual blocks, global average pooling and a dense layer with bias.

    Args:
        classes: Number of classes.
        widths: Channels of the three stages; the second and third begin with stride 2.
        blocks: Blocks per stage. The first block of *every* stage has a projection, also where shapes would fit.
        style: What all blocks have in common.
        channels: Channels of the images.
        stem: Channels of the first convolution.

    Inputs are float (B, channels, H, W), outputs logits (B, classes). Kernels are Glorot uniform.

    Raises:
        ConfigError: If a size is below 1 or ``style.dropout`` is outside [0, 1).
    """

    def __init__(
        self,
        classes: int,
        widths: tuple[int, int, int],
        blocks: int,
        style: BlockStyle,
        *,
        channels: int = 3,
        stem: int = 16,
    ) -> None:
        super().__init__()
        _check({"classes": classes, "blocks": blocks, "channels": channels, "stem": stem}, widths, style.dropout)
        self.stem = SameConv2d(channels, stem, 3)
        self.stem_bn = nn.BatchNorm2d(stem, style.bn_eps, BN_MOMENTUM)
        stages = []
        inputs = stem
        for stage, width in enumerate(widths):
            row = []
            for index in range(blocks):
                first = index == 0
                stride = 2 if first and stage > 0 else 1
                row.append(ResidualBlock(inputs, width, stride, first, style))
                inputs = width
            stages.append(nn.Sequential(*row))
        self.stages = nn.Sequential(*stages)
        self.dense = nn.Linear(inputs, classes)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, channels, H, W) to logits (B, classes)."""
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = self.stages(x)
        logits: Tensor = self.dense(x.mean(dim=(-2, -1)))
        return logits


def _check(sizes: Mapping[str, int], widths: tuple[int, int, int], dropout: float) -> None:
    problems = []
    if min(*sizes.values(), *widths) < 1:
        given = ", ".join(f"{name}={value}" for name, value in sizes.items())
        problems.append(f"{given}, widths={widths}: all are expected to be at least 1")
    if not 0 <= dropout < 1:
        problems.append(f"dropout is {dropout}, expected a share in [0, 1)")
    if problems:
        raise ConfigError(problems)
