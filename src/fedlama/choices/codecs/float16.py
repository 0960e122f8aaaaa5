"""Half precision: floating-point tensors are sent as IEEE float16, others as they are.

Values beyond +-65,504 become infinite, which the aggregation then reports as divergence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecState, CohortContext
from fedlama.choices.codecs.compiled import narrowed, suits_kernels
from fedlama.choices.codecs.float32 import Float32
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register

_RAW = Float32()


@register("codec")
@dataclass(frozen=True)
class Float16(Codec):
    """Send floating-point tensors rounded to float16.

    Args:
        down: Whether downloads are rounded too.

    Example:
        >>> Float16().transmit(torch.tensor([[1.0, 0.1]]))  # one client's tensor of two elements
        tensor([[1.0000, 0.1000]])
        >>> Float16().payload_bytes(TensorSpec("weight", (2, 3), torch.float32, trainable=True))
        12
    """

    name: ClassVar[str] = "float16"
    down: bool = field(default=False, metadata=LEFT_OUT_AT_DEFAULT)

    @property
    def download(self) -> Codec | None:
        """The codec of downloads: this one too where :attr:`down` is true."""
        return self if self.down else None

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return two bytes per floating-point element."""
        return _RAW.payload_bytes(_halved(spec))

    def encode(self, tensor: Tensor) -> bytes:
        """Round to float16 and write."""
        return _RAW.encode(tensor.half() if tensor.is_floating_point() else tensor)

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read and widen to the tensor's own dtype.

        Raises:
            DataError: The length is not that of the tensor.
        """
        return _RAW.decode(data, _halved(spec)).to(spec.dtype)

    def transmit(self, stacked: Tensor) -> Tensor:
        """Round to float16 and back, for all clients in one call."""
        return stacked.half().to(stacked.dtype) if stacked.is_floating_point() else stacked

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Do the same in one pass over the memory, where kernels are available and it is worth loading them."""
        return (narrowed(stacked, context, to_half=True) if suits_kernels(stacked) else self.transmit(stacked)), {}


def _halved(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype=torch.float16) if spec.dtype.is_floating_point else spec
