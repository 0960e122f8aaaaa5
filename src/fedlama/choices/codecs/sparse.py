"""The base of codecs that send a few of a tensor's numbers; a chain can compress those numbers further."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState
from fedlama.choices.codecs.difference import DifferenceCodec, Rows
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
    def select(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Choose numbers.

        Args:
            values: float32 (rows, elements).
            rows: What the rows are.

        Returns:
            Which numbers they are, uint8 (rows, bytes), and the numbers, float32 (rows, count).
        """

    @abstractmethod
    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Undo :meth:`select`, with zeros elsewhere: float32 (rows, elements)."""

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
