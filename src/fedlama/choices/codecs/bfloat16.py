"""The upper 16 bits of float32: its whole range with 8 significant bits; narrower tensors and integers as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecState, CohortContext
from fedlama.choices.codecs.compiled import narrowed, suits_kernels
from fedlama.choices.codecs.float32 import Float32
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register

_RAW = Float32()


@register("codec")
@dataclass(frozen=True)
class BFloat16(Codec):
    """Send floating-point tensors rounded to bfloat16, which never overflows where float32 does not.

    Args:
        down: Whether downloads are rounded too.

    Example:
        >>> BFloat16().transmit(torch.tensor([[1.0, 1e20]])).tolist()
        [[1.0, 9.972771014849226e+19]]
    """

    name: ClassVar[str] = "bfloat16"
    down: bool = False

    @property
    def download(self) -> Codec | None:
        """The codec of downloads: this one too where :attr:`down` is true."""
        return self if self.down else None

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return two bytes per floating-point element."""
        return _RAW.payload_bytes(_narrow(spec))

    def encode(self, tensor: Tensor) -> bytes:
        """Round to bfloat16 and write."""
        return _RAW.encode(tensor.bfloat16() if _is_wide(tensor.dtype) else tensor)

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read and widen to the tensor's own dtype.

        Raises:
            DataError: The length is not that of the tensor.
        """
        return _RAW.decode(data, _narrow(spec)).to(spec.dtype)

    def transmit(self, stacked: Tensor) -> Tensor:
        """Round to bfloat16 and back, for all clients in one call."""
        return stacked.bfloat16().to(stacked.dtype) if _is_wide(stacked.dtype) else stacked

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Do the same in one pass over the memory, where kernels are available and it is worth loading them."""
        return (narrowed(stacked, context, to_half=False) if suits_kernels(stacked) else self.transmit(stacked)), {}


def _is_wide(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize > 2


def _narrow(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype=torch.bfloat16) if _is_wide(spec.dtype) else spec
