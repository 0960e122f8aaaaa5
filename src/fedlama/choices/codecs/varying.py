"""Codecs whose payloads differ in length, and codecs whose receiver keeps what the sender keeps.

Both are members that a codec may have beside those of its contract:

===========================  =========================================================================================
``varies = True``            the length of a payload depends on the values. Then `payload_bytes` is the largest one, and
``least_bytes(spec)``        the smallest one, for forecasts
``measure(tensors, known)``  the bytes of each client's payload, for (clients, ...) and their
                             :class:`~fedlama.choices.codecs.base.CohortContext`, so that a simulation counts them
``length_of(data, spec)``    the bytes of the payload that begins with this byte, since the tensors of a layer are
                             packed one after another
``shares_state = True``      the receiver of uploads keeps the same state as the sender, one for each client of the
                             cohort. Its context then has that state, and
``decode_state(...)``        takes what `decode_with` takes, and returns the new state; {} for a tensor without one
===========================  =========================================================================================

:class:`~fedlama.choices.codecs.lbgm.LBGM` has all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecContext, CodecState, CohortContext
from fedlama.core.layers import TensorSpec


def _uploading(codec: Codec) -> Any:  # noqa: ANN401  (a codec with more members than the contract)
    """Return the codec of uploads, of two for both directions."""
    return getattr(codec, "up", codec)


def varies(codec: Codec) -> bool:
    """Return whether the payloads of a codec differ in length."""
    return bool(getattr(_uploading(codec), "varies", False))


def shares_state(codec: Codec) -> bool:
    """Return whether the receiver keeps the same state as the sender."""
    return bool(getattr(_uploading(codec), "shares_state", False))


def least_bytes(spec: TensorSpec, codec: Codec) -> int:
    """Return the smallest length of a tensor's payload.

    Args:
        spec: The tensor.
        codec: The codec that it is sent with.
    """
    return int(_uploading(codec).least_bytes(spec)) if varies(codec) else codec.payload_bytes(spec)


def length_of(data: bytes, spec: TensorSpec, codec: Codec) -> int:
    """Return the length of the tensor's payload that begins with a byte.

    Args:
        data: The first byte of a payload; empty where there is none, with which any length may be returned.
        spec: The tensor.
        codec: The codec that it is sent with.

    Raises:
        DataError: No payload begins with it.
    """
    return int(_uploading(codec).length_of(data, spec)) if varies(codec) else codec.payload_bytes(spec)


def payload_lengths(stacked: Tensor, spec: TensorSpec, codec: Codec, context: CohortContext) -> Sequence[int]:
    """Return the bytes of each client's payload.

    Args:
        stacked: The clients' tensors, (clients, ...).
        spec: One of them.
        codec: The codec that they are sent with.
        context: The clients' contexts.
    """
    if not varies(codec):
        return [codec.payload_bytes(spec)] * len(stacked)
    lengths: Sequence[int] = _uploading(codec).measure(stacked, context)
    return lengths


def received_state(data: bytes, spec: TensorSpec, codec: Codec, context: CodecContext) -> CodecState:
    """Return what the receiver of an upload keeps of a tensor; {} for a codec whose receiver keeps nothing.

    Args:
        data: The tensor's payload, which `decode_with` has read.
        spec: The tensor.
        codec: The codec that it is sent with.
        context: As for `decode_with`.
    """
    if not shares_state(codec):
        return {}
    state: CodecState = _uploading(codec).decode_state(data, spec, context)
    return state
