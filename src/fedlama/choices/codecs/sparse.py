"""The base of codecs that send a few of a tensor's numbers; a chain can compress those numbers further."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext, spec_of
from fedlama.choices.codecs.compiled import Arrays, arrays_of
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows
from fedlama.choices.codecs.few import Chosen, keep_all, send_chosen, unbounded
from fedlama.choices.codecs.packing import from_bytes, to_bytes
from fedlama.core.layers import TensorSpec


class SparseCodec(DifferenceCodec, Protocol):
    """Sends a share of the numbers, at least one, in float32."""

    @property
    def share(self) -> float:
        """Share of the numbers that are sent."""
        return 1.0

    def count(self, spec: TensorSpec) -> int:
        """Return how many numbers of a tensor are sent."""
        return min(max(math.ceil(self.share * spec.size), 1), spec.size)

    @abstractmethod
    def side_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes that say which numbers they are, for one row."""

    @abstractmethod
    def choose(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Choose numbers.

        Args:
            values: float32 (rows, elements).
            rows: What the rows are.

        Returns:
            Their positions, ascending, int64 (rows, count), and the numbers, float32 (rows, count).
        """

    @abstractmethod
    def side(self, positions: Tensor, rows: Rows) -> Tensor:
        """Write positions: int64 (rows, count) to uint8 (rows, bytes)."""

    def select(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return which numbers are chosen, uint8 (rows, bytes), and the numbers, float32 (rows, count)."""
        positions, chosen = self.choose(values, rows)
        return self.side(positions, rows), chosen

    @abstractmethod
    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Undo :meth:`select`, with zeros elsewhere: float32 (rows, elements)."""

    def chooser(self, arrays: Arrays, context: CohortContext, spec: TensorSpec) -> Callable[[int], Chosen]:
        """Write differences and references, and return a function that chooses numbers; a codec may do it faster.

        Args:
            arrays: A cohort's rows; `arrays.left` and `arrays.received` are overwritten as if nothing was sent.
            context: Whose addresses and `spread` are used.
            spec: The tensor.

        Returns:
            A function that returns what :meth:`choose` chooses of a row.
        """
        keep_all(arrays, context, unbounded(arrays))
        addresses = context.addresses()

        def choose(row: int) -> Chosen:
            values = torch.from_numpy(arrays.left[row]).unsqueeze(0)  # (1, elements)
            positions, numbers = self.choose(values, Rows(spec, [addresses[row]], {}))
            return positions[0].numpy(), numbers[0].numpy()

        return choose

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute with fewer passes over the memory, where kernels are available and it is worth loading them."""
        if not self.compiles(stacked, context):
            return super()._arriving(stacked, context)
        arrays = arrays_of(stacked, context.reference, context.state[RESIDUAL])
        choose = self.chooser(arrays, context, spec_of(stacked[0]))
        return send_chosen(arrays, context, choose, lambda numbers, _row: numbers)

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of the side information and of one float32 per number."""
        return self.side_bytes(spec) + 4 * self.count(spec)

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write which numbers are sent, then the numbers."""
        side, chosen = self.select(values, rows)
        return torch.cat([side, to_bytes(chosen)], 1), {}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read them."""
        width = self.side_bytes(rows.spec)
        return self.place(packed[:, :width], from_bytes(packed[:, width:], torch.float32), rows)


def scattered(positions: Tensor, chosen: Tensor, elements: int) -> Tensor:
    """Return rows of zeros with numbers at some positions.

    Args:
        positions: int64 (rows, count); those beyond the end, which only a damaged message has, count from the start.
        chosen: float32 (rows, count).
        elements: Length of a row.
    """
    return chosen.new_zeros(len(chosen), elements).scatter_(1, positions % elements, chosen)
