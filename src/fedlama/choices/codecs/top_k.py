"""The numbers of largest magnitude, with error feedback for all others.

Sources: Aji and Heafield (EMNLP 2017); Stich, Cordonnier and Jaggi, "Sparsified SGD with memory" (NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.codecs.base import CohortContext
from fedlama.choices.codecs.compiled import Arrays, by_rows, suits_kernels
from fedlama.choices.codecs.difference import Rows
from fedlama.choices.codecs.few import Chosen, keep_all
from fedlama.choices.codecs.packing import from_bytes, to_bytes
from fedlama.choices.codecs.sparse import SparseCodec, scattered
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, share_problems
from fedlama.kernels import bound_of_largest, largest_of, positions_of_largest


@register("codec")
@dataclass(frozen=True)
class TopK(SparseCodec):
    """Send the largest numbers of a difference, each with its position in 1, 2 or 4 bytes.

    ||v - q||^2 <= (1 - share) ||v||^2. Of equal magnitudes the first ones are sent.

    Args:
        share: Share of the numbers, in (0, 1].
        feedback: Add what was not sent to the next difference.
        down: Whether downloads are coded in the same way.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> TopK(share=0.5).transmit(torch.tensor([[1.0, -3.0, 2.0, 0.5]])).tolist()
        [[0.0, -3.0, 2.0, 0.0]]
    """

    name: ClassVar[str] = "top-k"
    share: float = 0.01
    feedback: bool = True
    down: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(share_problems(self, "share"))

    def side_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of one position per number."""
        return self.count(spec) * _position_dtype(spec.size).itemsize

    def choose(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Choose the largest magnitudes, in the order of their positions."""
        count = self.count(rows.spec)
        positions = _compiled(values, count) if suits_kernels(values) else _largest(values, count)
        return positions, values.gather(1, positions)

    def chooser(self, arrays: Arrays, context: CohortContext, spec: TensorSpec) -> Callable[[int], Chosen]:
        """Choose among the numbers that reach a bound, which a sample of each row gives."""
        count, bounds = self.count(spec), np.empty(len(arrays.values), np.float32)

        def sample(row: int) -> None:
            bounds[row] = bound_of_largest(arrays.values[row], arrays.reference, arrays.residuals[row], count)

        by_rows(sample, arrays, context)
        candidates = keep_all(arrays, context, bounds)

        def choose(row: int) -> Chosen:
            columns, numbers = candidates[row]
            if np.isfinite(bounds[row]) and len(columns) >= count:
                return largest_of(columns, numbers, count)
            positions = positions_of_largest(arrays.left[row], count)  # the sample misled
            return positions, arrays.left[row][positions]

        return choose

    def side(self, positions: Tensor, rows: Rows) -> Tensor:
        """Write positions in 1, 2 or 4 bytes."""
        return to_bytes(positions.to(_position_dtype(rows.elements)))

    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Put the numbers to their positions."""
        dtype = _position_dtype(rows.elements)
        positions = from_bytes(side, dtype).to(torch.int64) % (1 << 8 * dtype.itemsize)  # (rows, count)
        return scattered(positions, chosen, rows.elements)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the positions of the largest magnitudes of each row, ascending: int64 (rows, count)."""
    sizes = values.abs().nan_to_num(nan=torch.inf)  # what is no number must not stay behind in silence
    limit = torch.topk(sizes, count, dim=1).values[:, -1:]
    above, ties = sizes > limit, sizes == limit
    chosen = above | (ties & (ties.cumsum(1) <= count - above.sum(1, keepdim=True)))
    return chosen.nonzero()[:, 1].view(len(values), count)


def _compiled(values: Tensor, count: int) -> Tensor:
    """Return the same from compiled loops."""
    return torch.from_numpy(np.stack([positions_of_largest(row, count) for row in values.contiguous().numpy()]))


def _position_dtype(elements: int) -> torch.dtype:
    """Return the integers that hold positions; signed ones of the same width, which PyTorch computes with."""
    return torch.uint8 if elements <= 1 << 8 else torch.int16 if elements <= 1 << 16 else torch.int32
