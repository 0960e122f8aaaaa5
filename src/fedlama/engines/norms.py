"""How far a step of the server moves a tensor: two norms in one pass, for the records of a round."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fedlama.engines.compiled import can_compile
from fedlama.engines.sizes import intra_op_threads
from fedlama.engines.threads import WorkerThreads

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
    if len(now) <= _PIECE or new.device.type != "cpu":
        return _of_piece(now, before)
    edges = list(pairwise([*range(0, len(now), _PIECE), len(now)]))
    if can_compile() and now.dtype == before.dtype == torch.float32:
        parts = _compiled(now, before, edges, threads)
    else:
        with intra_op_threads(1):  # a second thread is waited for longer than it saves
            parts = [_of_piece(now[start:end], before[start:end]) for start, end in edges]
    return sum(moved for moved, _ in parts), sum(held for _, held in parts)


def _of_piece(now: Tensor, before: Tensor) -> tuple[float, float]:
    moved, held = torch.linalg.vector_norm(now - before), torch.linalg.vector_norm(before)
    if now.device.type != "cpu":
        moved, held = torch.stack([moved, held]).cpu()  # the device is looked at once for both
    return float(moved) ** 2, float(held) ** 2


def _compiled(
    now: Tensor, before: Tensor, edges: list[tuple[int, int]], threads: WorkerThreads
) -> list[tuple[float, float]]:
    """Return every piece's squares; threads take every second piece, or third, as many as they are."""
    from fedlama.engines.compiled.averaging import squares  # needs Numba

    now, before = now.contiguous(), before.contiguous()
    parts = [(0.0, 0.0)] * len(edges)
    helpers = min(threads.count, len(edges))

    def work_off(helper: int) -> list[tuple[float, float]]:
        return [squares(now.data_ptr(), before.data_ptr(), start, end) for start, end in edges[helper::helpers]]

    for helper, done in enumerate(threads.map(work_off, range(helpers))):
        parts[helper::helpers] = done
    return parts
