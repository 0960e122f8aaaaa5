"""ResNet20 for 32x32 images, exactly as the authors of FedLAMA built it."""

from __future__ import annotations

from fedlama.models.residual import ResidualNetwork
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
    return ResidualNetwork(classes, (16, 32, 64), blocks=3, bn_eps=1e-3, same_padding=same_padding)
