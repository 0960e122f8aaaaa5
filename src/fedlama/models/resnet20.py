"""ResNet20 for 32x32 images, exactly as the authors of FedLAMA built it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedlama.core.registry import register
from fedlama.models.base import DatasetLike, expect_shape
from fedlama.models.residual import BlockStyle, ResidualNetwork
from fedlama.models.same_conv import SamePadding


def resnet20(classes: int = 10, same_padding: SamePadding = "torch") -> ResidualNetwork:
    """Build the ResNet20 of the CIFAR-10 experiments.

    Args:
        classes: Number of classes.
        same_padding: ``"tensorflow"`` pads the stride-2 convolutions as the authors' framework did; the numbers of
            parameters are the same.

    Returns:
        A model from float (B, 3, H, W) to logits (B, classes): 23 kernels (271,152 parameters at 10 classes), 22
        batch norms, one bias; 272,762 trainable parameters.

    Raises:
        ConfigError: If ``classes`` is below 1 or the padding is unknown.

    Source: He et al., CVPR 2016, section 4.2, with the changes of the FedLAMA code: a projection with batch norm also
    in the first block of stage 1, batch norm with Keras' defaults (eps 1e-3, momentum 0.99 = 0.01 in PyTorch's
    convention), second gamma of each block starting at 0. Deviation: the authors seed one initialiser for all layers,
    which in some versions of TensorFlow makes equal shapes start equal; here every layer has its own draw.
    """
    return ResidualNetwork(classes, (16, 32, 64), 3, BlockStyle(bn_eps=1e-3, same_padding=same_padding))


@register("model")
@dataclass(frozen=True)
class ResNet20Settings:
    """ResNet-20 as the paper uses it on CIFAR-10.

    Args:
        same_padding: ``"tensorflow"`` pads strided convolutions as the authors' framework did.
    """

    name: ClassVar[str] = "resnet20"
    same_padding: SamePadding = "torch"

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        expect_shape(self.name, dataset, (3, 32, 32))
        return resnet20(dataset.outputs, self.same_padding)
