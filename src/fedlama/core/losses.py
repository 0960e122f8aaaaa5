"""The loss of classification, and the number of correct predictions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from fedlama.errors import DataError

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps a model's output and the targets, both of shape (batch, ...), to the batch's mean loss, a scalar tensor."""


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits; every position of a sequence counts as one prediction.

    Args:
        output: Logits, shape (batch, classes) or (batch, ..., classes), the classes last.
        target: int64 classes, shape (batch,) or (batch, ...).

    Returns:
        A scalar, in nats.

    Raises:
        DataError: A target is not a class of the model.

    >>> import torch
    >>> round(float(cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))), 4)  # ln 4
    1.3863
    """
    try:
        return functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))
    except IndexError as error:
        raise DataError(
            f"a label is not one of the model's {output.shape[-1]} classes, 0 to {output.shape[-1] - 1} ({error}); "
            "fix the labels or the model's number of classes"
        ) from error


def correct(output: Tensor, target: Tensor) -> Tensor:
    """Count the positions whose largest logit is that of the target.

    Args:
        output: Logits, shape (batch, classes) or (batch, ..., classes), the classes last.
        target: int64 classes, shape (batch,) or (batch, ...).

    Returns:
        An int64 scalar; a tensor, so that the caller decides when to wait for the device.
    """
    return (output.argmax(dim=-1) == target).sum()
