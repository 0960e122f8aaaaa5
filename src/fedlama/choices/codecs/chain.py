"""A few numbers, and these in few bits: a codec that selects numbers, then one that rounds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext, spec_of
from fedlama.choices.codecs.compiled import arrays_of
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows
from fedlama.choices.codecs.few import send_chosen
from fedlama.choices.codecs.nested import codec_from
from fedlama.choices.codecs.sparse import SparseCodec
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.errors import ConfigError


@register("codec")
@dataclass(frozen=True)
class Chain(DifferenceCodec):
    """Send what the first codec selects as the second one writes it.

    Both losses go into one residual, so the feedback of the two parts does not count, but that of the chain.

    Args:
        parts: Two codecs, or tables of their settings: ``top-k`` or ``random-k``, then any other one of differences.
        feedback: Add what was left out to the next difference.
        down: Whether downloads are coded in the same way.

    Raises:
        ConfigError: The parts cannot be chained.

    Example:
        >>> codec = Chain(({"name": "top-k", "share": 0.01}, {"name": "differences", "bits": 4}))
        >>> codec.payload_bytes(TensorSpec("w", (100, 100), torch.float32, trainable=True))  # 200 + 4 + 50
        254
    """

    name: ClassVar[str] = "chain"
    parts: tuple[Any, ...]
    feedback: bool = True
    down: bool = True

    def __post_init__(self) -> None:
        codecs = tuple(codec_from("codec.parts", part) for part in self.parts)
        object.__setattr__(self, "parts", codecs)
        if len(codecs) != 2 or not hasattr(codecs[0], "choose") or not hasattr(codecs[1], "pack"):
            named = ", ".join(repr(codec.name) for codec in codecs) or "empty"
            raise ConfigError(
                f"Chain: parts is {named}, expected 'top-k' or 'random-k' and then a codec of differences; write for "
                "example parts=[{name='top-k', share=0.01}, {name='differences', bits=4}]"
            )

    @property
    def _first(self) -> SparseCodec:
        first: SparseCodec = self.parts[0]
        return first

    @property
    def _second(self) -> DifferenceCodec:
        second: DifferenceCodec = self.parts[1]
        return second

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of the positions and of the selected numbers."""
        return self._first.side_bytes(spec) + self._second.packed_bytes(self._selected(spec))

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute with fewer passes over the memory, where kernels are available and it is worth loading them."""
        if not self.compiles(stacked, context):
            return super()._arriving(stacked, context)
        first, spec = self._first, spec_of(stacked[0])
        arrays, addresses = arrays_of(stacked, context.reference, context.state[RESIDUAL]), context.addresses()

        def rounded(numbers: Tensor, row: int) -> Tensor:
            selected = Rows(self._selected(spec), [addresses[row]], {})
            return self._second.rounded(numbers.unsqueeze(0), selected)[0]

        return send_chosen(arrays, context, first.chooser(arrays, context, spec), rounded)

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write the positions, then what the second codec makes of the numbers."""
        side, chosen = self._first.select(values, rows)
        packed, _ = self._second.pack(chosen, replace(rows, spec=self._selected(rows.spec)))
        return torch.cat([side, packed], 1), {}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read them."""
        width = self._first.side_bytes(rows.spec)
        chosen = self._second.unpack(packed[:, width:], replace(rows, spec=self._selected(rows.spec)))
        return self._first.place(packed[:, :width], chosen, rows)

    def _selected(self, spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=(self._first.count(spec),))
