"""LBGM: one number in place of a tensor, where its change is nearly parallel to the last change that was sent whole.

Azam, Hosseinalipour, Qiu and Brinton, "Recycling Model Updates in Federated Learning: Are Gradient Subspaces Low-Rank?"
(ICLR 2022), Algorithm 1. With r the value that both sides hold, g = x - r a client's change, and h its look-back
vector, the last change that it sent whole,

    sin^2 = 1 - <g, h>^2 / (|g|^2 |h|^2)           (the look-back phase error)
    sin^2 <= threshold:  rho = <g, h> / |h|^2 is sent, and the server has r + rho h
    otherwise:           x is sent, and h <- g on both sides

Both sides keep h, the server one for each client of the cohort. Sums run in float64; h, rho and r + rho h are float32
(float64 for tensors of that dtype).

==========  ==========================================================================================================
first byte  what follows
==========  ==========================================================================================================
0           the tensor, in its own dtype
1           rho
==========  ==========================================================================================================

How long a payload is thus depends on what a client has trained. The ledger has the lengths as they were sent, and a
forecast has bounds: every tensor whole, and every one as a number.

Deviations: the source has one rho for a client's whole update; here each tensor has its own, so that the codec goes
with strategies that synchronise layers by themselves. A tensor that did not change counts as parallel. Downloads are
whole, as in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecContext, CodecState, CohortContext, ContextCodec, spec_of
from fedlama.choices.codecs.difference import as_real, is_coded, real_spec, working_dtype
from fedlama.choices.codecs.float32 import Float32, check_length
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, refuse
from fedlama.errors import DataError

LOOK_BACK = "look-back"
_RAW = Float32()
_WHOLE, _NUMBER = 0, 1


@register("codec")
@dataclass(frozen=True)
class LBGM(ContextCodec):
    """Send a multiple of an earlier change where it is close enough.

    Args:
        threshold: The largest look-back phase error sin^2 with which a number is sent, from 0 to 1. With 0 it must be
            exactly parallel, and with 1 a tensor is sent whole once for each client of a cohort.

    Raises:
        ConfigError: The threshold is out of range.

    Example:
        >>> spec = TensorSpec("w", (100, 100), torch.float32, trainable=True)
        >>> LBGM().payload_bytes(spec), LBGM().least_bytes(spec)
        (40001, 5)
    """

    name: ClassVar[str] = "lbgm"
    varies: ClassVar[bool] = True
    shares_state: ClassVar[bool] = True
    threshold: float = 0.2

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "threshold")
        if not problems and self.threshold > 1:
            problems.append(f"LBGM: threshold is {self.threshold:g}, expected 0 to 1; use one such as 0.2")
        refuse(problems)

    @property
    def uses_reference(self) -> bool:
        """True: changes are counted from a value that both sides hold."""
        return True

    def init(self, spec: TensorSpec) -> CodecState:
        """Return a look-back vector of zero, with which a tensor is sent whole."""
        if not is_coded(spec):
            return {}
        real = real_spec(spec)
        return {LOOK_BACK: torch.zeros(real.shape, dtype=working_dtype(real.dtype))}

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of a tensor that is sent whole."""
        return _RAW.payload_bytes(spec) + (1 if is_coded(spec) else 0)

    def least_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of a tensor in whose place a number is sent, if that is shorter."""
        return min(self._number_bytes(spec), self.payload_bytes(spec)) if is_coded(spec) else _RAW.payload_bytes(spec)

    def length_of(self, data: bytes, spec: TensorSpec) -> int:
        """Return the bytes of the payload that begins with a byte; see :mod:`fedlama.choices.codecs.varying`.

        Raises:
            DataError: The first byte is unknown.
        """
        if not is_coded(spec) or not data or data[0] == _WHOLE:
            return self.payload_bytes(spec)
        if data[0] == _NUMBER:
            return self._number_bytes(spec)
        raise DataError(
            f"the payload of tensor {spec.name!r} begins with {data[0]}, expected {_WHOLE} or {_NUMBER}; use the same "
            "codec on both sides"
        )

    def measure(self, stacked: Tensor, context: CohortContext) -> list[int]:
        """Return the bytes of each client's payload; see :mod:`fedlama.choices.codecs.varying`."""
        spec = spec_of(stacked[0])
        if not is_coded(spec):
            return [_RAW.payload_bytes(spec)] * len(stacked)
        _, _, numbers = self._looked_back(stacked, context)
        lengths = self.payload_bytes(spec), self._number_bytes(spec)
        return [lengths[number] for number in numbers.tolist()]

    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write the number or the tensor, and return the look-back vector of the next upload."""
        if not is_coded(spec_of(tensor)):
            return _RAW.encode(tensor), {}
        state = {name: value.unsqueeze(0) for name, value in context.state.items()}
        cohort = CohortContext(context.reference, state, context.address, (context.address.client,))
        change, rho, number = self._looked_back(tensor.unsqueeze(0), cohort)
        if number[0]:
            return bytes([_NUMBER]) + _RAW.encode(rho), {LOOK_BACK: context.state[LOOK_BACK]}
        return bytes([_WHOLE]) + _RAW.encode(tensor), {LOOK_BACK: change[0]}

    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Read the number or the tensor.

        Raises:
            DataError: The length is not that of the tensor, or the look-back vector is not known here.
        """
        if not is_coded(spec):
            return _RAW.decode(data, spec)
        check_length(data, spec, self.length_of(data, spec))
        if data[0] == _WHOLE:
            return _RAW.decode(data[1:], spec)
        if LOOK_BACK not in context.state:
            raise DataError(
                f"tensor {spec.name!r} came as a multiple of an earlier change, which is not known here; let the "
                "client start again from the full model"
            )
        look_back = context.state[LOOK_BACK].cpu()
        rho = _RAW.decode(data[1:], TensorSpec(spec.name, (1,), look_back.dtype, trainable=True))
        reference = torch.zeros(spec.shape, dtype=spec.dtype) if context.reference is None else context.reference.cpu()
        return _moved(reference, look_back.unsqueeze(0), rho)[0]

    def decode_state(self, data: bytes, spec: TensorSpec, context: CodecContext) -> CodecState:
        """Return the receiver's look-back vector of the next upload; see :mod:`fedlama.choices.codecs.varying`."""
        if not is_coded(spec):
            return {}
        if data[0] == _NUMBER:
            return context.state
        value = as_real(_RAW.decode(data[1:], spec))
        base = torch.zeros_like(value) if context.reference is None else as_real(context.reference.cpu())
        working = working_dtype(value.dtype)
        return {LOOK_BACK: value.to(working) - base.to(working)}

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Do both for a cohort, without bytes."""
        if not is_coded(spec_of(stacked[0])):
            return stacked, {}
        change, rho, numbers = self._looked_back(stacked, context)
        reference = torch.zeros_like(stacked[0]) if context.reference is None else context.reference
        before = context.state[LOOK_BACK]
        moved = _moved(reference, before, rho)
        received = torch.where(_rows(numbers, stacked), moved, stacked)
        return received, {LOOK_BACK: torch.where(_rows(numbers, change), before, change)}

    def _looked_back(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return the changes (clients, ...), rho (clients,), and whether a number is sent (clients,)."""
        reference = torch.zeros_like(stacked[0]) if context.reference is None else context.reference
        real, base = as_real(stacked), as_real(reference)
        working = working_dtype(real.dtype)
        change = real.to(working) - base.to(working)
        sums = [_sums(row, before) for row, before in zip(change, context.state[LOOK_BACK], strict=True)]
        changed, kept, product = torch.stack(sums).unbind(1)  # |g|^2, |h|^2 and <g, h>, (clients,)
        parallel = (changed == 0) | (1 - product.square() / (changed * kept) <= self.threshold)
        numbers = (kept > 0) & parallel
        return change, torch.where(kept > 0, product / kept, 0.0).to(working), numbers

    def _number_bytes(self, spec: TensorSpec) -> int:
        return 1 + working_dtype(real_spec(spec).dtype).itemsize


def _sums(change: Tensor, before: Tensor) -> Tensor:
    """Return |g|^2, |h|^2 and <g, h> of one client, (3,) in float64; each client's as if it were alone."""
    wide, known = change.double(), before.double()
    return torch.stack([wide.square().sum(), known.square().sum(), (wide * known).sum()])


def _moved(reference: Tensor, look_back: Tensor, rho: Tensor) -> Tensor:
    """Return r + rho h, (clients, ...), for h of shape (clients, ...) and rho of shape (clients,)."""
    base = as_real(reference)
    received = (base.to(look_back.dtype) + _rows(rho, look_back) * look_back).to(base.dtype)
    return torch.view_as_complex(received) if reference.is_complex() else received


def _rows(numbers: Tensor, like: Tensor) -> Tensor:
    """Return one number for each client in a shape that goes with (clients, ...)."""
    return numbers.reshape(-1, *(1,) * (like.dim() - 1))
