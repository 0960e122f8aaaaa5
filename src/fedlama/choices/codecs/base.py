"""The contract of codecs: in how many bits a layer goes up.

Downloads are never compressed: every client continues from the value that the server really holds.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from fedlama.core.layers import TensorSpec


class Codec(Protocol):
    """Encodes single tensors; an engine that does not really send calls :meth:`transmit` instead."""

    name: ClassVar[str]

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Length of what :meth:`encode` writes for such a tensor, in bytes."""

    def encode(self, tensor: Tensor) -> bytes:
        """Write one tensor."""

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read one tensor; raises DataError when the bytes do not fit the spec."""

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return what arrives of tensors of shape (clients, ...): equal to decoding each one's encoding."""
