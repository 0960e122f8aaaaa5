"""The initialisation that the models share: Glorot uniform kernels and zero biases, the defaults of Keras."""

from __future__ import annotations

from torch import nn


def glorot(model: nn.Module) -> None:
    """Overwrite every convolution and dense layer of a model with Glorot-uniform kernels and zero biases.

    Args:
        model: Changed in place; draws come from torch's global generator, which the caller seeds.

    Source: Glorot and Bengio, AISTATS 2010; the default of Keras, in which the FedLAMA experiments were written.
    PyTorch's own default has a third of the variance for a square layer, which is a different starting point.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
