"""Weights in 8 bits with one scale for each row of a matrix; without state or reference, so every client can read it.

It is idempotent: what it has sent once is sent again without any change. For that the step size is rounded to 17
significant bits, and so every multiple up to 127 steps is exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecState, CohortContext, Spread, in_turn, spec_of
from fedlama.choices.codecs.compiled import rounded_rows, suits_kernels
from fedlama.choices.codecs.float32 import Float32, check_length
from fedlama.choices.codecs.packing import from_bytes, to_bytes
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register

_RAW = Float32()
_LARGEST_CODE = 127
_SHORT_ROW = 16


@register("codec")
@dataclass(frozen=True)
class EightBitRows(Codec):
    """Send weights in 8 bits, a row being all weights of one output; rows shorter than 16 share one scale.

    Tensors of a dtype other than float32 and float64 are sent as they are.

    Example:
        >>> EightBitRows().payload_bytes(TensorSpec("weight", (10, 20), torch.float32, trainable=True))
        240
    """

    name: ClassVar[str] = "eight-bit-rows"

    @property
    def download(self) -> Codec | None:
        """Downloads are written in the same way."""
        return self

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of one float32 per row and one byte per number."""
        return 4 * _rows(spec) + spec.size if _is_coded(spec) else _RAW.payload_bytes(spec)

    def encode(self, tensor: Tensor) -> bytes:
        """Write the steps of all rows, then the codes of all numbers."""
        spec = spec_of(tensor)
        if not _is_coded(spec):
            return _RAW.encode(tensor)
        steps, codes = _coded(tensor.reshape(1, _rows(spec), -1))
        return torch.cat([to_bytes(steps.flatten()), to_bytes(codes.flatten())]).cpu().numpy().tobytes()

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read steps and codes.

        Raises:
            DataError: The length is not that of the tensor.
        """
        if not _is_coded(spec):
            return _RAW.decode(data, spec)
        check_length(data, spec, self.payload_bytes(spec))
        rows, packed = _rows(spec), torch.frombuffer(bytearray(data), dtype=torch.uint8)
        steps, codes = from_bytes(packed[: 4 * rows], torch.float32), from_bytes(packed[4 * rows :], torch.int8)
        return (codes.view(rows, -1).to(torch.float32) * steps.unsqueeze(1)).view(spec.shape).to(spec.dtype)

    def transmit(self, stacked: Tensor) -> Tensor:
        """Round all clients' tensors in one call."""
        return _received(stacked, in_turn)

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Do the same, in the caller's threads."""
        return _received(stacked, context.spread), {}


def _received(stacked: Tensor, spread: Spread) -> Tensor:
    """Return what arrives, in compiled loops where they are available and it is worth loading them."""
    spec = spec_of(stacked[0])
    if not _is_coded(spec):
        return stacked
    if suits_kernels(stacked):
        return rounded_rows(stacked, _rows(spec), spread)
    steps, codes = _coded(stacked.reshape(len(stacked), _rows(spec), -1))
    return (codes.to(torch.float32) * steps).view(stacked.shape).to(stacked.dtype)


def _coded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return steps, float32 (clients, rows, 1), and codes, int8 (clients, rows, columns)."""
    values = rows.to(torch.float32)
    steps = _shortened(values.abs().amax(2, keepdim=True) / _LARGEST_CODE)
    scaled = values / torch.where(steps > 0, steps, torch.ones_like(steps))
    return steps, scaled.round().nan_to_num(0.0).clamp(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8)


def _shortened(steps: Tensor) -> Tensor:
    """Round positive float32 numbers to 17 significant bits, to even."""
    bits = steps.view(torch.int32)
    rounded = (bits + 63 + ((bits >> 7) & 1)) & ~127
    return torch.where(torch.isfinite(steps), rounded.view(torch.float32), steps)


def _rows(spec: TensorSpec) -> int:
    """Return the number of scales."""
    if len(spec.shape) < 2 or spec.size < _SHORT_ROW * spec.shape[0]:
        return 1
    return spec.shape[0]


def _is_coded(spec: TensorSpec) -> bool:
    return spec.dtype in (torch.float32, torch.float64) and spec.size > 0
