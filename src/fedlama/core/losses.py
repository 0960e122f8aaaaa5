"""The loss of classification, and which predictions of a model are correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedlama.errors import DataError

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps a model's output and the targets, both of shape (batch, ...), to the batch's mean loss, a scalar tensor."""

IGNORED = -100
"""The target of a position that is not a prediction, such as padding; the default of PyTorch's cross-entropy too."""


def cross_entropy(
    output: Tensor,
    target: Tensor,
    ignore_index: int = IGNORED,
    weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy of logits over all positions whose target is not ignored.

    A batch in which no position counts has the loss 0 and the gradient 0, where PyTorch's own mean is NaN.

    Args:
        output: Logits, shape (batch, classes), or with more dimensions: see :func:`class_dimension`.
        target: Integer classes, shape (batch,), (batch, 1), or one per position.
        ignore_index: The target of a position that does not count.
        weights: One weight for each class; the mean is over the weights of the targets. A target whose class has the
            weight 0 does not count.
        label_smoothing: Probability mass that is spread over all classes.

    Returns:
        A scalar, in nats.

    Raises:
        DataError: The targets are not class numbers of the model, or not one per position.

    >>> round(float(cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))), 4)  # ln 4
    1.3863
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([-100, -100]))
    tensor(0.)
    """
    dimension = class_dimension(output, target)
    if dimension is None:
        raise DataError(
            f"the targets have shape {tuple(target.shape)} ({target.dtype}) and the model's output "
            f"{tuple(output.shape)}, expected integer class numbers, one for each prediction; convert one-hot targets "
            "with y.argmax(-1), or give an objective that fits them"
        )
    weight = None if weights is None else torch.tensor(weights, dtype=output.dtype, device=output.device)
    try:
        return _mean_loss(output, target, dimension, ignore_index, weight, label_smoothing)
    except IndexError as error:
        classes = output.shape[dimension]
        raise DataError(
            f"a label is not one of the model's {classes} classes, 0 to {classes - 1} ({error}); "
            "fix the labels or the model's number of classes"
        ) from error


def class_dimension(output: Tensor, target: Tensor) -> int | None:
    """Return the dimension of a model's output that holds the classes.

    It is the last one, as in (batch, classes) and (batch, positions, classes), or the second one as in PyTorch's
    losses, (batch, classes, height, width). Where the shape allows both, it is the second one of pictures (four
    dimensions and more), and the last one otherwise.

    Args:
        output: The output, shape (batch, ...).
        target: The targets, shape (batch, ...).

    Returns:
        The dimension; None where the targets are not integers, or not one for each position of the output.

    >>> class_dimension(torch.zeros(8, 3, 5, 5), torch.zeros(8, 5, 5, dtype=torch.int64))
    1
    """
    return next(iter(_class_dimensions(output, target)), None)


def _class_dimensions(output: object, target: object) -> list[int]:
    """Return the dimensions that may hold the classes, the preferred one first."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):  # a model may return anything to an objective
        return []
    if target.dtype == torch.int64 and target.dim() == 1 and output.dim() == 2 and len(output) == len(target):
        return [1]  # the usual case, which a local step of a small model has to find quickly
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or output.dim() < 2:
        return []
    shape, given = tuple(output.shape), tuple(target.shape)
    if len(given) == len(shape) and given[-1] == 1:  # one column of labels, as some data sets store them
        given = given[:-1]
    last = [len(shape) - 1] if given == shape[:-1] else []
    second = [1] if given == shape[:1] + shape[2:] and 1 not in last else []
    return second + last if len(shape) >= 4 else last + second


def correct(
    output: Tensor, target: Tensor, loss: Tensor | None, ignore_index: int = IGNORED
) -> tuple[Tensor, Tensor] | None:
    """Count the positions whose largest logit is that of the target, and all that have a target.

    Args:
        output: Logits, shape (batch, classes), or with more dimensions: see :func:`class_dimension`.
        target: Integer classes, shape (batch,), (batch, 1), or one per position.
        loss: The objective's value. Where the shapes allow two dimensions of classes, it decides: the dimension is the
            one whose cross-entropy it is. None takes that of :func:`class_dimension`.
        ignore_index: The target of a position that does not count.

    Returns:
        Two int64 scalars, the first at most the second; tensors, so that the caller decides when to wait for the
        device. None where the targets are not the classes of the output: then there is no accuracy.

    >>> logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> correct(logits, torch.tensor([[1], [1], [-100]]), torch.tensor(0.7))
    (tensor(1), tensor(2))
    """
    dimensions = _class_dimensions(output, target)
    if len(dimensions) > 1 and loss is not None:
        dimensions = [dim for dim in dimensions if torch.isclose(_mean_loss(output, target, dim), loss, rtol=1e-4)]
    if not dimensions:
        return None
    predicted = output.argmax(dim=dimensions[0]).reshape(-1)  # (positions,)
    wanted = target.reshape(-1)
    return (predicted == wanted).sum(), (wanted != ignore_index).sum()


def _mean_loss(
    output: Tensor,
    target: Tensor,
    dimension: int,
    ignore_index: int = IGNORED,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy with the classes in a dimension."""
    usual = weight is None and not label_smoothing
    if usual and output.dim() == 2 and dimension == 1 and target.shape == output.shape[:1]:
        # The usual case, without the views below, which a small model's local step would feel. Where no target counts,
        # the gradient is 0 already, but the loss is 0 / 0: it is overwritten in place, which backward does not notice.
        loss = functional.cross_entropy(output, target.long(), ignore_index=ignore_index)
        loss.detach().masked_fill_((target == ignore_index).all(), 0.0)
        return loss
    logits = output.movedim(dimension, -1).reshape(-1, output.shape[dimension])  # (positions, classes)
    classes = target.reshape(-1).long()
    counts = classes != ignore_index  # (positions,)
    weighed = counts
    if weight is not None:  # torch divides 0 by 0 where all targets are of classes of weight 0
        weighed = counts & (weight[torch.where(counts, classes, 0)] > 0)
        classes = torch.where(weighed, classes, ignore_index)
    loss = functional.cross_entropy(logits, classes, weight, ignore_index=ignore_index)
    if label_smoothing:
        # torch's own smoothing selects the positions that count, which torch.func.vmap cannot vectorise.
        weights = torch.ones_like(logits[0]) if weight is None else weight
        even = -(torch.log_softmax(logits, -1) * weights).sum(-1)  # the loss of every class alike, (positions,)
        shares = torch.where(weighed, weights[torch.where(weighed, classes, 0)], 0.0)
        total = shares.sum()
        spread = torch.where(counts, even, 0.0).sum() / torch.where(total > 0, total, 1.0)
        loss = (1 - label_smoothing) * loss + label_smoothing / logits.shape[-1] * spread
    return loss.where(weighed.any(), 0.0)


def scalar(loss: Tensor) -> Tensor:
    """Return a loss as a scalar.

    Args:
        loss: What an objective returned.

    Raises:
        DataError: It is not a tensor with one real element.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        given = (
            f"a tensor of shape {tuple(loss.shape)} ({loss.dtype})" if isinstance(loss, Tensor) else repr(type(loss))
        )
        raise DataError(
            f"the objective returned {given}, expected the batch's mean loss as a scalar tensor; add .mean()"
        )
    return loss if loss.dim() == 0 else loss.reshape(())
