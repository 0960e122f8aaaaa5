"""The base of codecs that send a compressed difference from the value that both sides hold, with error feedback.

What a codec of this kind defines is only how flat rows of float32 become bytes and back. Written Q, the rest is common
to all of them (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019), with r the reference and e the residual:

    v = x - r + e,    q = Q(v),    e <- v - q,    the receiver has r + q

In uploads e belongs to the client, in downloads to the server, whose value of the layer is r + q from then on: what all
clients hold. Differences are computed in float32 (float64 for tensors of that dtype), and Q always sees float32.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Address, Codec, CodecContext, CodecState, CohortContext, ContextCodec, spec_of
from fedlama.choices.codecs.compiled import suits_kernels
from fedlama.choices.codecs.float32 import Float32, check_length
from fedlama.core.layers import TensorSpec

RESIDUAL = "residual"
_RAW = Float32()


@dataclass(frozen=True)
class Rows:
    """What identifies the rows that are packed: the same on both sides.

    Attributes:
        spec: The tensor, of real numbers; a complex one has a last dimension of 2 here.
        addresses: One per row, for random numbers.
        state: The senders' states besides the residual, stacked; empty at the receiver.
    """

    spec: TensorSpec
    addresses: Sequence[Address]
    state: CodecState

    @property
    def elements(self) -> int:
        """Elements of a row."""
        return self.spec.size


class DifferenceCodec(ContextCodec, Protocol):
    """Sends packed differences; :attr:`feedback` and :attr:`down` are fields of classes that let the user choose."""

    @property
    def feedback(self) -> bool:
        """Whether what was left out is added to the next difference; by default it is not."""
        return False

    @property
    def down(self) -> bool:
        """Whether downloads are coded in the same way; by default they are not."""
        return False

    @abstractmethod
    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes that :meth:`pack` makes of one row of real numbers."""

    @abstractmethod
    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write rows.

        Args:
            values: v as float32 (rows, elements); never changed. Each row must be written as if it were alone.
            rows: What the rows are.

        Returns:
            uint8 (rows, bytes), and the new state besides the residual, stacked.
        """

    @abstractmethod
    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read rows: uint8 (rows, bytes) to q as float32 (rows, elements)."""

    def rounded(self, values: Tensor, rows: Rows) -> Tensor:
        """Return what arrives of rows, float32 (rows, elements); a codec may compute the same bits faster."""
        return self.unpack(self.pack(values, rows)[0], replace(rows, state={}))

    def compiles(self, stacked: Tensor, context: CohortContext) -> bool:
        """Return whether compiled loops can compute a cohort's feedback: there is some, and the stack suits them."""
        return self.feedback and RESIDUAL in context.state and suits_kernels(stacked)

    @property
    def uses_reference(self) -> bool:
        """Whether differences are sent; they are."""
        return True

    @property
    def download(self) -> Codec | None:
        """The codec of downloads: this one too, unless :attr:`down` is false."""
        return self if self.down else None

    def init(self, spec: TensorSpec) -> CodecState:
        """Return a residual of zero; without feedback there is none."""
        if not (self.feedback and is_coded(spec)):
            return {}
        real = real_spec(spec)
        return {RESIDUAL: torch.zeros(real.shape, dtype=working_dtype(real.dtype))}

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of a packed row; integers go as they are."""
        return self.packed_bytes(real_spec(spec)) if is_coded(spec) else _RAW.payload_bytes(spec)

    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write the difference from the reference, and return the residual that is left."""
        if not is_coded(spec_of(tensor)):
            return _RAW.encode(tensor), {}
        state = {name: value.unsqueeze(0) for name, value in context.state.items()}
        cohort = CohortContext(context.reference, state, context.address, (context.address.client,))
        packed, _, new = self._sent(tensor.unsqueeze(0), cohort)
        return packed[0].cpu().numpy().tobytes(), {name: value[0] for name, value in new.items()}

    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Add what arrived to the reference.

        Raises:
            DataError: The length is not that of the tensor.
        """
        if not is_coded(spec):
            return _RAW.decode(data, spec)
        check_length(data, spec, self.payload_bytes(spec))
        packed = torch.frombuffer(bytearray(data), dtype=torch.uint8).unsqueeze(0)
        moved = self.unpack(packed, Rows(real_spec(spec), [context.address], {}))
        reference = context.reference
        if reference is None:
            reference = torch.zeros(spec.shape, dtype=spec.dtype)
        return _moved(reference.cpu(), moved)[0]

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Do both for a cohort, without bytes."""
        if not is_coded(spec_of(stacked[0])):
            return stacked, {}
        return self._arriving(stacked, context)

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Return what arrives, and the new states, of (clients, ...); a place for faster ways with the same bits."""
        return self._sent(stacked, context)[1:]

    def _sent(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, Tensor, CodecState]:
        """Return what is sent, what arrives, and the new states, of (clients, ...)."""
        state, addresses = context.state, context.addresses()
        reference = torch.zeros_like(stacked[0]) if context.reference is None else context.reference
        real, base = as_real(stacked), as_real(reference)
        working = working_dtype(real.dtype)
        change = real.to(working) - base.to(working)  # (clients, ...)
        others = {name: value for name, value in state.items() if name != RESIDUAL}
        if RESIDUAL in state:
            change = change + state[RESIDUAL]
        spec = TensorSpec(addresses[0].tensor, tuple(base.shape), base.dtype, trainable=True)
        flat, rows = change.reshape(len(change), -1), Rows(spec, addresses, others)
        packed, new = self.pack(flat.to(torch.float32), rows)
        moved = self.unpack(packed, replace(rows, state={}))
        if RESIDUAL in state:
            new = {**new, RESIDUAL: (flat - moved).view(change.shape)}
        return packed, _moved(reference, moved), new


def _moved(reference: Tensor, moved: Tensor) -> Tensor:
    """Return r + q for q as rows: (clients, ...)."""
    base = as_real(reference)
    working = working_dtype(base.dtype)
    received = (base.to(working) + moved.view(-1, *base.shape).to(working)).to(base.dtype)
    return torch.view_as_complex(received) if reference.is_complex() else received


def as_real(value: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers, in a last dimension of 2; any other as it is."""
    return torch.view_as_real(value) if value.is_complex() else value


def real_spec(spec: TensorSpec) -> TensorSpec:
    """Return the spec of a complex tensor's pairs of real numbers; any other as it is."""
    if not spec.dtype.is_complex:
        return spec
    return replace(spec, shape=(*spec.shape, 2), dtype=spec.dtype.to_real())


def is_coded(spec: TensorSpec) -> bool:
    """Return whether a tensor is coded; integers and tensors without elements go as they are."""
    return (spec.dtype.is_floating_point or spec.dtype.is_complex) and spec.size > 0


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which differences are computed: float64 for that dtype, and else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
