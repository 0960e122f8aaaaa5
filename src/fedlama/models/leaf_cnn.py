"""The convolutional network of the LEAF benchmark for FEMNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.core.registry import register
from fedlama.models.base import DatasetLike, expect_shape
from fedlama.models.initialise import glorot


class LeafCNN(nn.Module):
    """Two 5x5 convolutions with pooling, then two dense layers, for 28x28 grey images.

    Args:
        classes: Number of classes; 62 in FEMNIST.

    Kernels at 62 classes: 800, 51,200, 6,422,528 and 126,976; 6,603,710 trainable parameters in all, the model of the
    FEMNIST experiments of FedLAMA. Inputs are float (B, 1, 28, 28), outputs logits (B, classes).

    Source: Caldas et al., LEAF, arXiv:1812.01097 (its FEMNIST model). Deviation: activations are flattened channel by
    channel (PyTorch's order), not pixel by pixel, which only permutes the rows of a random matrix.
    """

    def __init__(self, classes: int = 62) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.dense1 = nn.Linear(64 * 7 * 7, 2048)
        self.dense2 = nn.Linear(2048, classes)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 28, 28) to logits (B, classes)."""
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.dense1(x.flatten(1)))
        logits: Tensor = self.dense2(x)
        return logits


def leaf_cnn(classes: int = 62) -> LeafCNN:
    """Build the LEAF network; see `LeafCNN`."""
    return LeafCNN(classes)


@register("model")
@dataclass(frozen=True)
class LeafCNNSettings:
    """LEAF's FEMNIST network for 28x28 grey images."""

    name: ClassVar[str] = "leaf-cnn"

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        expect_shape(self.name, dataset, (1, 28, 28))
        return leaf_cnn(dataset.outputs)
