"""The memory of recorded steps: fixed tensors for some clients, into which the rows of a cohort are copied.

A recording reads and writes fixed addresses. So the trainer has tensors of its own, one row for each client of a share,
and a round copies the clients' rows in and out. That is two passes over the state, next to the many passes of a round's
steps, and in return any client, cohort or part of one can use the same recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlama.core.devices import copy_all, row_numbers
from fedlama.core.trees import Tree, leaves, map_leaves, pick
from fedlama.engines.api import Values
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.trainers.recorded.client_step import StepTensors


@dataclass(frozen=True)
class Slots:
    """Fixed tensors for the clients of a share.

    Attributes:
        values: The models, (slots, ...) by tensor name.
        gradients: Their gradients, (slots, ...) for each parameter that requires one.
        losses: Their losses, float64 (slots,).
        batch: Their batches of the usual shape; leaves are (slots, batch, ...).
        generators: Their random generators.
        cast: Some of the parameters in bfloat16, (slots, ...) by name.
    """

    values: Values
    gradients: Sequence[Tensor]
    losses: Tensor
    batch: Tree
    generators: Sequence[torch.Generator]
    cast: Values

    @classmethod
    def allocate(
        cls, count: int, stacked: Values, names: Sequence[str], batch: Tree, cast: Sequence[str] = ()
    ) -> Slots:
        """Allocate slots.

        Args:
            count: How many.
            stacked: Models like those that they are for, (clients, ...) by tensor name.
            names: The parameters that require a gradient.
            batch: One client's batch, leaves (batch, ...).
            cast: The parameters that are needed in bfloat16 too.
        """
        device = leaves(batch)[0].device
        values = {name: _room(count, value[0]) for name, value in stacked.items()}
        return cls(
            values,
            [torch.zeros_like(values[name]) for name in names],
            torch.zeros(count, dtype=torch.float64, device=device),
            map_leaves(lambda leaf: _room_for_samples(count, leaf), batch),
            [torch.Generator(device) for _ in range(count)],
            {name: torch.zeros_like(values[name], dtype=torch.bfloat16) for name in cast},
        )

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.losses)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        stored = [*self.values.values(), *self.gradients, *self.cast.values(), *leaves(self.batch)]
        return sum(tensor.nbytes for tensor in stored)

    def of_client(self, slot: int) -> StepTensors:
        """Return the tensors of one slot, as views."""
        return StepTensors(
            {name: value[slot] for name, value in self.values.items()},
            [gradient[slot] for gradient in self.gradients],
            self.losses[slot],
            pick(self.batch, slot),
            self.generators[slot],
            {name: value[slot] for name, value in self.cast.items()},
        )

    def take(self, rows: CohortSlice) -> None:
        """Copy the models of some rows into the first slots."""
        count = len(rows.clients)
        copy_all([self.values[name][:count] for name in rows.values], list(rows.values.values()))

    def give_back(self, rows: CohortSlice) -> None:
        """Copy the models of the first slots back into their rows."""
        count = len(rows.clients)
        copy_all(list(rows.values.values()), [self.values[name][:count] for name in rows.values])

    def cast_weights(self, count: int) -> None:
        """Convert the weights of the first slots to bfloat16, where a step needs them so."""
        if self.cast:
            copy_all([value[:count] for value in self.cast.values()], [self.values[name][:count] for name in self.cast])

    def put_batches(self, chosen: Sequence[int], batch: Tree) -> None:
        """Copy batches into some slots.

        Args:
            chosen: The slots, in ascending order.
            batch: Leaves are (chosen slots, batch, ...).
        """
        if list(chosen) == list(range(len(chosen))):
            targets = [leaf[: len(chosen)] for leaf in leaves(self.batch)]
            copy_all(targets, leaves(batch))
            return
        numbers = row_numbers(chosen, self.losses.device)
        for target, leaf in zip(leaves(self.batch), leaves(batch), strict=True):
            target[numbers] = leaf


def _room(count: int, row: Tensor) -> Tensor:
    """Return memory for `count` tensors like one, each dense and in the same order of dimensions."""
    flat = torch.zeros((count, row.numel()), dtype=row.dtype, device=row.device)
    return flat.as_strided((count, *row.shape), (max(row.numel(), 1), *row.stride()))


def _room_for_samples(count: int, leaf: Tensor) -> Tensor:
    """Return memory for `count` batches like one; images are stored channels-last, which kernels are fastest with."""
    if leaf.dim() != 4:
        return torch.zeros((count, *leaf.shape), dtype=leaf.dtype, device=leaf.device)  # (slots, batch, ...)
    batch, channels, height, width = leaf.shape
    stored = torch.zeros((count, batch, height, width, channels), dtype=leaf.dtype, device=leaf.device)
    return stored.permute(0, 1, 4, 2, 3)  # (slots, batch, channels, height, width)
