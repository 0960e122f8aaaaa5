"""How far a step of the server moves a tensor: two norms in one pass, for the records of a round."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlama import kernels
from fedlama.core.averaging import difference
from fedlama.engines.cohort.sizes import intra_op_threads
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.kernels import can_compile

_PIECE = 1 << 16
"""Elements whose norms are taken at a time; whatever their number, bits do not depend on that of threads."""


def squared_norms(new: Tensor, previous: Tensor, threads: WorkerThreads) -> tuple[float, float]:
    """Return ||new - previous||^2 and ||previous||^2.

    Args:
        new: After the step.
        previous: Before it, of the same shape and on the same device.
        threads: Who helps with large tensors on the CPU.
    """
    now, before = new.reshape(-1), previous.reshape(-1)
    if len(now) <= _PIECE or new.device.type != "cpu":  # not worth loading Numba for, which takes 100 MiB
        return _by_torch(now, before)
    pieces = list(zip(torch.split(now, _PIECE), torch.split(before, _PIECE), strict=True))
    parts: list[tuple[float, float]] = []
    if can_compile() and now.dtype == before.dtype == torch.float32:
        parts = threads.map_strided(_compiled, pieces)
    if not parts or not all(math.isfinite(moved) for moved, _ in parts):
        with intra_op_threads(1):  # two of torch's own threads wait for each other longer than that they save
            parts = [_by_torch(*piece) for piece in pieces]
    return sum(moved for moved, _ in parts), sum(held for _, held in parts)


def squared_norms_of(pairs: Sequence[tuple[Tensor, Tensor]], threads: WorkerThreads) -> list[tuple[float, float]]:
    """Return :func:`squared_norms` of many tensors; a device other than the CPU is looked at once.

    Args:
        pairs: Each tensor after and before a step.
        threads: Who helps with large tensors on the CPU.
    """
    if not pairs or pairs[0][0].device.type == "cpu" or any(new.is_complex() for new, _ in pairs):
        return [squared_norms(new, previous, threads) for new, previous in pairs]
    new, previous = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    norms = [torch._foreach_norm(torch._foreach_sub(new, previous)), torch._foreach_norm(previous)]
    moved, held = torch.stack([torch.stack([norm.double() for norm in each]) for each in norms]).tolist()
    return [(change**2, size**2) for change, size in zip(moved, held, strict=True)]


def _by_torch(now: Tensor, before: Tensor) -> tuple[float, float]:
    moved, held = torch.linalg.vector_norm(now - before), torch.linalg.vector_norm(before)
    if now.device.type != "cpu":
        moved, held = torch.stack([moved, held]).cpu()  # one transfer for both
        return float(moved) ** 2, float(held) ** 2
    change = float(moved)
    if not math.isfinite(change):  # an infinity that stays, such as a mask's
        change = float(torch.linalg.vector_norm(difference(now, before)))
    return change**2, float(held) ** 2


def _compiled(piece: tuple[Tensor, Tensor]) -> tuple[float, float]:
    now, before = (part.contiguous().numpy() for part in piece)
    return kernels.squared_norms(now, before)
