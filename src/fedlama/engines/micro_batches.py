"""Gradient accumulation: a batch is computed in parts that need less memory, and the gradients are added up.

Parts have weights in proportion to their samples, so for a loss that is a mean over samples the result is that of the
whole batch, up to rounding. Two things differ: BatchNorm normalises with the statistics of each part, and dropout draws
its masks part by part. A loss that is a mean over something else, such as the tokens that count, is weighted by samples
all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedlama.core.trees import Tree, leaves, map_leaves


class LossAndGradients(NamedTuple):
    """What a batch gives.

    Attributes:
        loss: The loss, () or (clients,).
        gradients: Its gradients, one for each trained parameter.
    """

    loss: Tensor
    gradients: Sequence[Tensor]


Compute = Callable[[Tree], LossAndGradients]
"""Computes a batch, or a part of one."""


def accumulated(batch: Tree, size: int | None, compute: Compute, dimension: int = 0) -> LossAndGradients:
    """Compute a batch in parts.

    Args:
        batch: Leaves of shape (samples, ...), or (clients, samples, ...) where `dimension` is 1.
        size: Samples of a part, at most; None for the whole batch at once.
        compute: Computes a part.
        dimension: The dimension of the samples.

    Returns:
        The mean loss and its gradients, weighted by the parts' samples.
    """
    count = leaves(batch)[0].shape[dimension]
    if size is None or count <= size:
        return compute(batch)
    loss, gradients = torch.zeros(()), list[Tensor]()
    for micro_batch, length in parts_of(batch, size, dimension):
        part, weight = compute(micro_batch), length / count
        weighted = torch._foreach_mul(list(part.gradients), weight)
        if not gradients:
            loss, gradients = part.loss.detach() * weight, list(weighted)
        else:
            loss = loss + part.loss.detach() * weight
            torch._foreach_add_(gradients, weighted)
    return LossAndGradients(loss, gradients)


def parts_of(batch: Tree, size: int | None, dimension: int = 0) -> Iterator[tuple[Tree, int]]:
    """Cut a batch in parts.

    Args:
        batch: As for :func:`accumulated`, like the other arguments.
        size: Samples of a part, at most; None for the whole batch.
        dimension: The dimension of the samples.

    Yields:
        The parts, as views, each with its number of samples.
    """
    count = leaves(batch)[0].shape[dimension]
    if size is None or count <= size:
        yield batch, count
        return
    for start in range(0, count, size):
        length = min(size, count - start)
        yield map_leaves(_narrowed(dimension, start, length), batch), length


def _narrowed(dimension: int, start: int, length: int) -> Callable[[Tensor], Tensor]:
    return lambda leaf: leaf.narrow(dimension, start, length)
