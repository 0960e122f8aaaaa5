"""One layer's synchronisation over stacked clients: mean and discrepancy in one pass, and the write-back.

The stack is walked in blocks of columns that fit the cache: a block is fetched from memory once, averaged over the
clients, and compared with its own mean while it is still close. The write-back sets each block on all clients. On the
CPU threads share the columns of a large layer; who takes which changes no bit of the result. On another device a
discrepancy stays there, so that a caller that adds several of them reads only their sum.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedlama.core.averaging import difference, integer_mean
from fedlama.engines.cohort.storage import use_huge_pages
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.kernels import average_rows, can_compile, fill_rows


def physical_order(stacked: Tensor) -> tuple[int, ...]:
    """Return the row dimensions of a (clients, ...) tensor from the slowest to the fastest in memory.

    >>> physical_order(torch.empty(2, 3, 4, 5, 6).permute(0, 1, 4, 2, 3))
    (1, 3, 4, 2)
    """
    return tuple(sorted(range(1, stacked.dim()), key=lambda dim: -stacked.stride()[dim]))


def flat_rows(stacked: Tensor, order: tuple[int, ...]) -> Tensor:
    """View (clients, ...) as (clients, elements), elements in the order of memory."""
    return stacked.permute([0, *order]).reshape(stacked.shape[0], -1)


def flat_one(value: Tensor, order: tuple[int, ...]) -> Tensor:
    """Bring one client's tensor into the order of :func:`flat_rows`: (elements,)."""
    return value.permute([dim - 1 for dim in order]).reshape(-1)


def unflat_one(flat: Tensor, shape: torch.Size, order: tuple[int, ...]) -> Tensor:
    """Undo :func:`flat_one`.

    Args:
        flat: (elements,).
        shape: One client's shape.
        order: As given by :func:`physical_order`.

    Returns:
        A contiguous tensor of that shape.
    """
    stored = flat.view([shape[dim - 1] for dim in order])
    back = sorted(range(len(order)), key=lambda index: order[index])
    return stored.permute(back).contiguous()


_BLOCK = 1 << 18
"""Elements of all clients in a block on the CPU: 1 MiB of float32, half of a usual second-level cache."""
_CHUNK = 1 << 15
"""Columns that a thread averages at a time."""
_LARGE = 1 << 25
"""Bytes from which on a stack is written past the caches: it would only push everything else out of them."""


def mean_and_discrepancy(
    stacked: Tensor, weights: Tensor, measure: bool, threads: WorkerThreads
) -> tuple[Tensor, float | Tensor]:
    """Average over the clients and measure how far they are apart.

    Args:
        stacked: x_i as rows, (clients, ...), dense.
        weights: p_i, float64 of shape (clients,) on the same device, with a sum of 1.
        measure: Whether the discrepancy is wanted.
        threads: Who helps with large layers on the CPU.

    Returns:
        u = sum_i p_i x_i, contiguous and of one client's shape, and sum_i p_i ||x_i - u||^2: a float on the CPU, and
        elsewhere a float64 scalar on the device. Integers as in :func:`fedlama.core.averaging.integer_mean`.
    """
    if stacked.is_contiguous():
        mean, total = _of_rows(stacked.view(stacked.shape[0], -1), weights, measure, threads)
        return mean.view(stacked.shape[1:]), total
    order = physical_order(stacked)
    mean, total = _of_rows(flat_rows(stacked, order), weights, measure, threads)
    return unflat_one(mean, stacked.shape[1:], order), total


def _of_rows(stacked: Tensor, weights: Tensor, measure: bool, threads: WorkerThreads) -> tuple[Tensor, float | Tensor]:
    """Average (clients, elements)."""
    on_cpu = stacked.device.type == "cpu"
    mean = torch.empty(stacked.shape[1], dtype=stacked.dtype, device=stacked.device)
    if on_cpu:
        use_huge_pages(mean)
    if not stacked.is_floating_point() and not stacked.is_complex():
        total = _of_integers(mean, stacked, weights, measure)
    elif on_cpu and _suits_kernels(stacked):
        measured = _compiled(mean, stacked, weights, measure, threads)
        if not math.isnan(measured):
            return mean, measured
        total = _by_blocks(mean, stacked, weights, measure)  # the kernels make NaN of rows of equal infinities
    else:
        total = _by_blocks(mean, stacked, weights, measure)
    return mean, float(total) if on_cpu else total


def _of_integers(mean: Tensor, stacked: Tensor, weights: Tensor, measure: bool) -> Tensor:
    """Fill in the mean, rounded, and return the discrepancy."""
    mean.copy_(integer_mean(stacked, weights))
    if not measure:
        return weights.new_zeros(())
    return weights @ (stacked - mean).double().square().sum(1)


def _compiled(mean: Tensor, stacked: Tensor, weights: Tensor, measure: bool, threads: WorkerThreads) -> float:
    """Fill in the mean and return the discrepancy, every column in one kernel."""
    rows, out, shares = stacked.numpy(), mean.numpy(), weights.numpy().astype(np.float32)  # views but for the weights
    elements = stacked.shape[1]
    if elements <= _CHUNK:
        return average_rows(rows, shares, out, measure=measure)

    def average(span: tuple[int, int]) -> float:
        first, last = span
        return average_rows(rows[:, first:last], shares, out[first:last], measure=measure)

    return sum(threads.map_strided(average, _spans(elements, _CHUNK)))  # in the order of the chunks


def _by_blocks(mean: Tensor, stacked: Tensor, weights: Tensor, measure: bool) -> Tensor:
    """Fill in the mean and return the discrepancy, with PyTorch's kernels."""
    clients, elements = stacked.shape
    dtype_weights, on_cpu = weights.to(stacked.dtype), stacked.device.type == "cpu"
    total = torch.zeros((), dtype=torch.float64, device=stacked.device)
    width = min(_block_width(stacked), elements)
    # Memory that is used for every block: a fresh one of this size would cost page faults each time.
    room = torch.empty(clients * width if measure else 0, dtype=stacked.dtype, device=stacked.device)
    for start in range(0, elements, width or 1):
        block, part = stacked[:, start : start + width], mean[start : start + width]
        torch.mv(block.t(), dtype_weights, out=part)
        if measure:
            apart = torch.sub(block, part, out=room[: block.numel()].view(block.shape))
            squares = weights @ torch.linalg.vector_norm(apart, dim=1).double().square()
            if on_cpu and not math.isfinite(squares):
                squares = weights @ torch.linalg.vector_norm(difference(block, part), dim=1).double().square()
            total += squares
    return total


def write_back(stacked: Tensor, value: Tensor, threads: WorkerThreads) -> None:
    """Set every client's row to one value.

    Args:
        stacked: (clients, elements), dense; overwritten.
        value: (elements,).
        threads: Who helps with large layers on the CPU.
    """
    elements = stacked.shape[1]
    on_cpu = stacked.device.type == "cpu"
    if on_cpu and _suits_kernels(stacked, value) and stacked.nbytes >= _LARGE:
        rows, source = stacked.numpy(), value.numpy()  # views

        def set_some(first: int, last: int) -> None:
            fill_rows(rows[:, first:last], source[first:last])
    else:

        def set_some(first: int, last: int) -> None:
            stacked[:, first:last].copy_(value[first:last])

    threads.map_strided(lambda span: set_some(*span), _spans(elements, _block_width(stacked)))  # one span off the CPU


def set_rows(stacked: Tensor, value: Tensor, threads: WorkerThreads) -> None:
    """Set every client's tensor to one value, for any order of a row in memory.

    Args:
        stacked: (clients, ...); overwritten.
        value: One client's.
        threads: Who helps with large tensors on the CPU.
    """
    if stacked.nbytes < _LARGE:
        stacked.copy_(value)
    else:
        order = physical_order(stacked)
        write_back(flat_rows(stacked, order), flat_one(value, order), threads)


def _suits_kernels(*tensors: Tensor) -> bool:
    """Return whether compiled kernels are available and take these tensors."""
    return can_compile() and all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)


def _spans(elements: int, width: int) -> list[tuple[int, int]]:
    """Cut columns into pieces of a width."""
    return list(pairwise([*range(0, elements, width), elements]))


def _block_width(stacked: Tensor) -> int:
    """Columns per block: what fits the cache on the CPU, all of them on other devices."""
    clients, elements = stacked.shape
    return max(_BLOCK // clients, 1024) if stacked.device.type == "cpu" else max(elements, 1)
