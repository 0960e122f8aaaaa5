"""The networks of the published experiments as plain torch modules; never knows that clients train them.

All return logits, work under ``torch.func.functional_call`` with ``vmap``, and draw their initial values from
torch's global generator, which the caller seeds.
"""

from __future__ import annotations

from fedlama.models.char_transformer import CharTransformer, char_transformer
from fedlama.models.leaf_cnn import LeafCNN, leaf_cnn
from fedlama.models.mlp import mlp
from fedlama.models.residual import ResidualNetwork
from fedlama.models.resnet20 import resnet20
from fedlama.models.small_cnn import SmallCNN, small_cnn
from fedlama.models.wide_resnet import wide_resnet

__all__ = [
    "CharTransformer",
    "LeafCNN",
    "ResidualNetwork",
    "SmallCNN",
    "char_transformer",
    "leaf_cnn",
    "mlp",
    "resnet20",
    "small_cnn",
    "wide_resnet",
]
