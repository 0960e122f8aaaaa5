"""Losses and the accuracy that goes with them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Objective = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch from the model's output and the targets; a scalar tensor."""


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy from logits; every position of a sequence counts as one prediction.

    Args:
        output: Logits, shape (batch, classes) or (batch, ..., classes), the classes last.
        target: int64 classes, shape (batch,) or (batch, ...).

    Returns:
        Scalar.
    """
    return functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def correct(output: Tensor, target: Tensor) -> Tensor:
    """Count the positions whose largest logit is that of the target; an int64 scalar."""
    return (output.argmax(dim=-1) == target).sum()
