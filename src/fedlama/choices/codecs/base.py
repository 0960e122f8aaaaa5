"""The contract of codecs: in how many bits a layer is uploaded.

Downloads are never compressed: every client continues from the value that the server holds.

To write one, inherit from :class:`Codec` and define `name`, `payload_bytes`, `encode` and `decode`; override `transmit`
where the result for a whole cohort can be computed faster than by encoding and decoding.

A codec has no state: each tensor is encoded by itself. State between rounds, such as the residual of error feedback,
would belong in a method ``init(spec)`` beside :meth:`Codec.encode`, and be kept by the engines for each client and
tensor, as a solver's :data:`~fedlama.choices.solvers.base.OptimizerState` is. No codec here needs it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedlama.core.layers import TensorSpec


class Codec(Protocol):
    """Encodes single tensors; an engine that does not really send calls :meth:`transmit` instead.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The codec's name in configuration files.
    """

    name: ClassVar[str]

    @abstractmethod
    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the length of what :meth:`encode` writes for a tensor, in bytes.

        Args:
            spec: Shape and dtype of the tensor. The length must not depend on its values.
        """

    @abstractmethod
    def encode(self, tensor: Tensor) -> bytes:
        """Write one tensor.

        Args:
            tensor: One client's tensor, on any device; never changed.
        """

    @abstractmethod
    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read one tensor.

        Args:
            data: What :meth:`encode` wrote, or anything else that a client sent.
            spec: Shape and dtype of the tensor.

        Returns:
            The tensor on the CPU, with the shape and dtype of `spec`.

        Raises:
            DataError: The bytes do not fit the spec.
        """

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return what the server receives of a cohort's tensors; by default each one is encoded and decoded.

        Args:
            stacked: One tensor of every client, shape (clients, ...); never changed.

        Returns:
            A tensor of the same shape, dtype and device, equal bit for bit to decoding what :meth:`encode` writes.
        """
        spec = TensorSpec("", tuple(stacked.shape[1:]), stacked.dtype, trainable=True)
        received = [self.decode(self.encode(tensor), spec) for tensor in stacked]
        return torch.stack(received).to(stacked.device)  # (clients, ...)
