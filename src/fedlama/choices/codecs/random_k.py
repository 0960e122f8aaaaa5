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
from torch import Tensor

from fedlama.choices.codecs.difference import Rows
from fedlama.choices.codecs.sparse import SparseCodec, scattered
from fedlama.core.layers import TensorSpec
from fedlama.core.randomness import keyed_halves
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, share_problems


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

    def select(self, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Choose the numbers at this address's positions."""
        chosen = values.gather(1, self._positions(rows).to(values.device))
        usable = torch.isfinite(values).all(1, keepdim=True)  # what is no number must not stay behind in silence
        chosen = torch.where(usable, chosen, torch.full_like(chosen, torch.nan))
        if not self.feedback:
            chosen = chosen * (rows.elements / self.count(rows.spec))
        return torch.zeros(len(values), 0, dtype=torch.uint8, device=values.device), chosen

    def place(self, side: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
        """Put the numbers to their positions."""
        return scattered(self._positions(rows).to(chosen.device), chosen, rows.elements)

    def _positions(self, rows: Rows) -> Tensor:
        """Return the positions, ascending: int64 (rows, count)."""
        count, drawn = self.count(rows.spec), []
        for address in rows.addresses:
            keys = keyed_halves(address.key, 4 * rows.elements).view("<u8")  # 64 bits for each element
            drawn.append(np.sort(np.argpartition(keys, count - 1)[:count]))
        return torch.from_numpy(np.stack(drawn).astype(np.int64))
