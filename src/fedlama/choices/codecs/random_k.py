"""Numbers at random positions, which both sides draw, so only the numbers are sent.

Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory" (NeurIPS 2018), the operator rand-k. Without feedback
the numbers are multiplied by elements / count, so that what arrives has the right expectation (Wangni et al., NeurIPS
2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.codecs.base import Address, CodecState, CohortContext, Spread, in_turn, spec_of
from fedlama.choices.codecs.compiled import LARGE, PIECE, Arrays, arrays_of, by_rows
from fedlama.choices.codecs.difference import RESIDUAL, Rows
from fedlama.choices.codecs.few import Chosen, keep_all, unbounded
from fedlama.choices.codecs.sparse import SparseCodec, scattered
from fedlama.core.layers import TensorSpec
from fedlama.core.randomness import keyed_halves
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, share_problems
from fedlama.kernels import LeastHashes, can_compile, keep_differences, put_numbers

_COLUMNS = 1 << 16
"""Columns of all clients that a kernel is called for."""


@register("codec")
@dataclass(frozen=True)
class RandomK(SparseCodec):
    """Send numbers at positions that depend on seed, round, client and tensor.

    Args:
        share: Share of the numbers, in (0, 1].
        feedback: Add what was not sent to the next difference; without it, what is sent is scaled up.
        down: Whether downloads are coded in the same way.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "random-k"
    share: float = 0.05
    feedback: bool = True
    down: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(share_problems(self, "share"))

    def side_bytes(self, spec: TensorSpec) -> int:
        """Return 0: both sides draw the positions."""
        return 0

    def choose(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Choose the numbers at this address's positions."""
        positions = self._positions(rows).to(values.device).expand(len(values), -1)
        chosen = values.gather(1, positions)
        usable = torch.isfinite(values).all(1, keepdim=True)  # what is no number must not stay behind in silence
        chosen = torch.where(usable, chosen, torch.full_like(chosen, torch.nan))
        if not self.feedback:
            chosen = chosen * (rows.elements / self.count(rows.spec))
        return positions, chosen

    def chooser(self, arrays: Arrays, context: CohortContext, spec: TensorSpec) -> Callable[[int], Chosen]:
        """Choose the numbers at the positions of each address."""
        count = self.count(spec)
        positions = _searched(spec.size, count, context.addresses(), context.spread)
        infinite = keep_all(arrays, context, unbounded(arrays))
        scale = np.float32(1.0 if self.feedback else spec.size / count)

        def choose(row: int) -> Chosen:
            chosen = arrays.left[row][positions[row]]
            return positions[row], np.full_like(chosen, np.nan) if len(infinite[row][0]) else chosen * scale

        return choose

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Draw the positions and send the numbers in the pass that computes them."""
        if not self.compiles(stacked, context):
            return super()._arriving(stacked, context)
        arrays, spec = arrays_of(stacked, context.reference, context.state[RESIDUAL]), spec_of(stacked[0])
        count, addresses = self.count(spec), context.addresses()
        hashes = LeastHashes(spec.size, count, [address.key for address in addresses])
        out, change = (arrays.received, arrays.left), (arrays.values, arrays.reference, arrays.residuals)

        def send(first: int) -> None:
            hashes.send(out, change, first, first + _COLUMNS, past_caches=arrays.past_caches)

        def send_rest(row: int) -> None:
            received, left = arrays.received[row], arrays.left[row]
            positions = hashes.positions(row)
            if positions is None or not hashes.is_finite(row):
                (positions,) = _searched(spec.size, count, [addresses[row]], in_turn)
                keep_differences(received, left, arrays.values[row], arrays.reference, arrays.residuals[row])
            sent = left[positions]
            if not hashes.is_finite(row):  # what is not a number must not stay behind in silence
                sent[:] = np.nan
            put_numbers(received, left, arrays.reference, positions, sent)

        context.spread(send, range(0, spec.size, _COLUMNS))
        by_rows(send_rest, arrays, context)
        return arrays.arriving, {RESIDUAL: arrays.residual}

    def side(self, positions: Tensor, rows: Rows) -> Tensor:
        """Write nothing."""
        return torch.zeros(len(positions), 0, dtype=torch.uint8, device=positions.device)

    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Put the numbers to their positions."""
        return scattered(self._positions(rows).to(chosen.device), chosen, rows.elements)

    def _positions(self, rows: Rows) -> Tensor:
        """Return the positions, ascending: int64 (rows, count)."""
        count, elements = self.count(rows.spec), rows.elements
        if can_compile() and elements >= LARGE:
            return torch.from_numpy(np.stack(_searched(elements, count, rows.addresses, in_turn)))
        return torch.from_numpy(np.stack([_least_hashes(elements, count, address.key) for address in rows.addresses]))


def _searched(elements: int, count: int, addresses: Sequence[Address], spread: Spread) -> list[NDArray[np.int64]]:
    """Return the positions of each address, in compiled loops."""
    keys = [address.key for address in addresses]
    hashes = LeastHashes(elements, count, keys)
    spread(lambda first: hashes.search(first, first + PIECE), range(0, elements, PIECE))
    chosen: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(keys)

    def choose(row: int) -> None:
        positions = hashes.positions(row)
        chosen[row] = _least_hashes(elements, count, keys[row]) if positions is None else positions

    spread(choose, range(len(keys)))
    return chosen


def _least_hashes(elements: int, count: int, key: int) -> NDArray[np.int64]:
    """Return the positions whose hashes are the smallest ones, ascending."""
    hashes = keyed_halves(key, 4 * elements).view("<u8")  # 64 bits for each element
    return np.sort(np.argpartition(hashes, count - 1)[:count]).astype(np.int64)
