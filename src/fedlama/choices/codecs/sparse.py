"""The base of codecs that send a few of a tensor's numbers; a chain can compress those numbers further."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext, spec_of
from fedlama.choices.codecs.compiled import arrays_of, by_rows, suits_kernels
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows
from fedlama.choices.codecs.packing import from_bytes, to_bytes
from fedlama.core.layers import TensorSpec
from fedlama.kernels import keep_differences


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

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute with fewer passes over the memory, where kernels are available and it is worth loading them."""
        if not (self.feedback and RESIDUAL in context.state and suits_kernels(stacked)):
            return super()._arriving(stacked, context)
        return few_arriving(stacked, context, self.choose)

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


def few_arriving(
    stacked: Tensor, context: CohortContext, choose: Callable[[Tensor, Rows], tuple[Tensor, Tensor]]
) -> tuple[Tensor, CodecState]:
    """Return what arrives of a few numbers of each difference, and the new residuals, in compiled loops.

    Args:
        stacked: (clients, ...), which suits kernels.
        context: Reference, residuals and addresses.
        choose: Returns positions, int64 (1, count), and what arrives there, float32 (1, count), of one row.
    """
    arrays, addresses = arrays_of(stacked, context.reference, context.state[RESIDUAL]), context.addresses()
    spec = spec_of(stacked[0])

    def compute(row: int) -> None:
        received, left = arrays.received[row], arrays.left[row]
        change = arrays.values[row], arrays.reference, arrays.residuals[row]
        keep_differences(received, left, *change, past_caches=arrays.past_caches)
        positions, sent = (part[0].numpy() for part in choose(_row(left), Rows(spec, [addresses[row]], {})))
        with np.errstate(over="ignore", invalid="ignore"):  # infinity minus itself is no number, as it should be
            received[positions] = arrays.reference[positions] + sent
            left[positions] -= sent

    by_rows(compute, arrays, context)
    return arrays.arriving, {RESIDUAL: arrays.residual}


def _row(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values).unsqueeze(0)  # (1, elements)


def scattered(positions: Tensor, chosen: Tensor, elements: int) -> Tensor:
    """Return rows of zeros with numbers at some positions.

    Args:
        positions: int64 (rows, count); those beyond the end, which only a damaged message has, count from the start.
        chosen: float32 (rows, count).
        elements: Length of a row.
    """
    return chosen.new_zeros(len(chosen), elements).scatter_(1, positions % elements, chosen)
