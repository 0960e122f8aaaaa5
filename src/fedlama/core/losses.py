"""Losses and the accuracy that goes with them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from fedlama.errors import DataError

Objective = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch from the model's output and the targets; a scalar tensor."""


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits; every position of a sequence counts as one prediction.

    Args:
        output: Logits, shape (batch, classes) or (batch, ..., classes), the classes last.
        target: int64 classes, shape (batch,) or (batch, ...).

    Returns:
        Scalar.

    Raises:
        DataError: A target is not a class of the model.
    """
    try:
        return functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))
    except IndexError as error:
        raise DataError(
            f"a label is not one of the model's {output.shape[-1]} classes, 0 to {output.shape[-1] - 1} ({error}); "
            "fix the labels or the model's number of classes"
        ) from error


def correct(output: Tensor, target: Tensor) -> Tensor:
    """Count the positions whose largest logit is that of the target; an int64 scalar."""
    return (output.argmax(dim=-1) == target).sum()
