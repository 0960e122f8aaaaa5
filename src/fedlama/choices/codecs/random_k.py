"""Numbers at random positions, which both sides draw, so only the numbers are sent.

Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory" (NeurIPS 2018), the operator rand-k. Without feedback
the numbers are multiplied by elements / count, so that what arrives has the right expectation (Wangni et al., NeurIPS
2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.codecs.compiled import LARGE
from fedlama.choices.codecs.difference import Rows
from fedlama.choices.codecs.sparse import SparseCodec, scattered
from fedlama.core.layers import TensorSpec
from fedlama.core.randomness import keyed_halves
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, share_problems
from fedlama.kernels import can_compile, positions_of_least_hashes


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

    def side(self, positions: Tensor, rows: Rows) -> Tensor:
        """Write nothing."""
        return torch.zeros(len(positions), 0, dtype=torch.uint8, device=positions.device)

    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Put the numbers to their positions."""
        return scattered(self._positions(rows).to(chosen.device), chosen, rows.elements)

    def _positions(self, rows: Rows) -> Tensor:
        """Return the positions, ascending: int64 (rows, count)."""
        count, elements = self.count(rows.spec), rows.elements
        least = positions_of_least_hashes if can_compile() and elements >= LARGE else _least_hashes
        return torch.from_numpy(np.stack([least(elements, count, address.key) for address in rows.addresses]))


def _least_hashes(elements: int, count: int, key: int) -> NDArray[np.int64]:
    """Return the positions whose hashes are the smallest ones, ascending."""
    hashes = keyed_halves(key, 4 * elements).view("<u8")  # 64 bits for each element
    return np.sort(np.argpartition(hashes, count - 1)[:count]).astype(np.int64)
