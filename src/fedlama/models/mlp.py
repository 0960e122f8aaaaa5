"""A multi-layer perceptron, the smallest model with several layers to synchronise."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from torch import nn

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import ConfigError
from fedlama.models.base import DatasetLike
from fedlama.models.initialise import glorot


def mlp(inputs: int, hidden: Sequence[int] = (64,), classes: int = 10) -> nn.Sequential:
    """Build dense layers with ReLU between them.

    Args:
        inputs: Features of a row after flattening, such as 64 for 8x8 grey images.
        hidden: Width of each hidden layer; empty for a linear model.
        classes: Width of the output (logits).

    Returns:
        A model from (B, ...) to (B, classes) with dense layers named ``dense0``, ``dense1`` and so on.

    Raises:
        ConfigError: If a width is below 1.

    >>> [name for name, _ in mlp(64, (32, 16), 10).named_parameters()]
    ['dense0.weight', 'dense0.bias', 'dense1.weight', 'dense1.bias', 'dense2.weight', 'dense2.bias']
    """
    widths = [inputs, *hidden, classes]
    if min(widths) < 1:
        raise ConfigError(f"mlp widths are {widths} (inputs, hidden, classes), expected all to be at least 1")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (narrow, wide) in enumerate(pairwise(widths)):
        if index:
            layers[f"relu{index - 1}"] = nn.ReLU()
        layers[f"dense{index}"] = nn.Linear(narrow, wide)
    model = nn.Sequential(layers)
    glorot(model)
    return model


@register("model")
@dataclass(frozen=True)
class MLPSettings:
    """Dense layers with ReLU on flattened inputs.

    Args:
        hidden: Widths of the hidden layers; empty for a linear model.
        outputs: Width of the output; None for one value for each class, or for each target column. The task ``cox``
            needs 1: its two columns of targets have one score.
    """

    name: ClassVar[str] = "mlp"
    hidden: tuple[int, ...] = (64,)
    outputs: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse([] if self.outputs is None else whole(self, "outputs", minimum=1))

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        return mlp(math.prod(dataset.train_x.shape[1:]), self.hidden, self.outputs or dataset.outputs)
