"""Rounds in which clients take different numbers of local steps, for trainers that advance many clients at once.

A trainer takes equally many steps of all clients in a slice. So clients are sorted by their numbers of steps, the most
first, and the round is cut where the next client is done: then the clients that go on are always the first rows.

====================  =====================
steps of clients      phases (rows x steps)
====================  =====================
5, 2, 5, 3            4 x 2, 3 x 1, 2 x 2
====================  =====================

The rows are copied for it, a chunk at a time, and written back at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.trainers.base import LocalSteps

Train = Callable[[CohortSlice, LocalSteps], list[float]]
"""Takes equally many steps of all rows, and returns every client's mean loss."""


def train_in_phases(
    rows: CohortSlice, work: LocalSteps, counts: Sequence[int], chunk: int, train: Train
) -> list[float]:
    """Take each client's own number of steps, in place.

    Args:
        rows: The clients to advance, and their state.
        work: The local steps of the round, as many as the client with the most takes.
        counts: Each client's number of steps.
        chunk: Clients whose rows are copied at a time, at most.
        train: Takes the steps of a phase.

    Returns:
        Mean training loss per client.

    Raises:
        DivergenceError: A client's loss or parameters are no longer finite; the rows are then as they were.
    """
    sequence = sorted(range(len(counts)), key=lambda row: -counts[row])
    means = [0.0] * len(counts)
    for start in range(0, len(sequence), chunk):
        chosen = sequence[start : start + chunk]
        copies = _taken(rows, chosen)
        losses = _train_sorted(copies, work, [counts[row] for row in chosen], train)
        _put_back(rows, chosen, copies)
        for row, loss in zip(chosen, losses, strict=True):
            means[row] = loss
    return means


def _train_sorted(rows: CohortSlice, work: LocalSteps, counts: Sequence[int], train: Train) -> list[float]:
    """Train clients whose numbers of steps never rise from one row to the next."""
    work = replace(work, generators={})
    totals, done = [0.0] * len(counts), 0
    for end in sorted(set(counts)):
        going_on = rows.part(slice(0, sum(count >= end for count in counts)))
        steps_done = tuple(before + done for before in going_on.steps_done)
        going_on = replace(going_on, steps_done=steps_done, fresh=rows.fresh and done == 0)
        for row, loss in enumerate(train(going_on, work.part(done, end - done))):
            totals[row] += loss * (end - done)
        done = end
    return [total / count for total, count in zip(totals, counts, strict=True)]


def _taken(rows: CohortSlice, chosen: Sequence[int]) -> CohortSlice:
    """Return copies of some rows."""

    def pick(stacked: torch.Tensor) -> torch.Tensor:
        return stacked.index_select(0, torch.tensor(chosen, device=stacked.device))

    return CohortSlice(
        tuple(rows.clients[row] for row in chosen),
        {name: pick(value) for name, value in rows.values.items()},
        {kind: [pick(buffer) for buffer in buffers] for kind, buffers in rows.optimizer_state.items()},
        tuple(rows.steps_done[row] for row in chosen),
        rows.fresh,
    )


def _put_back(rows: CohortSlice, chosen: Sequence[int], copies: CohortSlice) -> None:
    """Overwrite rows with their copies."""
    pairs = [(rows.values[name], value) for name, value in copies.values.items()]
    for kind, buffers in copies.optimizer_state.items():
        pairs += zip(rows.optimizer_state[kind], buffers, strict=True)
    for stacked, value in pairs:
        stacked.index_copy_(0, torch.tensor(chosen, device=stacked.device), value)
