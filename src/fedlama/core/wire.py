"""The message format: its exact layout, packing, unpacking, and the size of a message without packing it.

The ledger counts with the sizes given here, and deployments send messages packed here, so what is counted and what is
sent cannot differ. All numbers are little-endian.

==========  =====  ==========================================================================
part        bytes  content
==========  =====  ==========================================================================
message     40     magic, version, flags, round, client, number of layers, samples n_i, mean loss
per layer   16     index of the layer, reserved, length of its payload
scalar      8      in uploads for a strategy that measures discrepancy: ||x_i - r||^2 in float64, where
                   r is the value last synchronised, so that the server needs sums only
payload     -      the layer's tensors one after another, as its codec writes them
==========  =====  ==========================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedlama.errors import DataError

_MAGIC = b"FLMA"
_VERSION = 1
_MESSAGE = struct.Struct("<4sHHIIQQd")
_LAYER = struct.Struct("<IIQ")
_SCALAR = struct.Struct("<d")
_WITH_SCALARS = 1

MESSAGE_HEADER_BYTES = _MESSAGE.size
LAYER_HEADER_BYTES = _LAYER.size
SCALAR_BYTES = _SCALAR.size


@dataclass(frozen=True)
class Message:
    """One message between server and client.

    Attributes:
        round_index: The round, from 0.
        client: The client's number.
        payloads: Index of the layer to its encoded bytes.
        scalars: Index of the layer to ||x_i - r||^2; empty when the strategy does not measure discrepancy.
        samples: The client's number of training samples n_i (0 in downloads).
        loss: Mean training loss of the round (0 in downloads).
    """

    round_index: int
    client: int
    payloads: Mapping[int, bytes]
    scalars: Mapping[int, float] = field(default_factory=dict)
    samples: int = 0
    loss: float = 0.0


def pack(message: Message) -> bytes:
    """Write a message.

    Args:
        message: What to send.

    Returns:
        Its bytes; their number equals :func:`message_bytes` of the payload lengths.

    >>> packed = pack(Message(round_index=2, client=7, payloads={0: b"abcd"}))
    >>> len(packed) == message_bytes([4], scalars=False)
    True
    >>> unpack(packed).payloads
    {0: b'abcd'}
    """
    flags = _WITH_SCALARS if message.scalars else 0
    parts = [
        _MESSAGE.pack(
            _MAGIC,
            _VERSION,
            flags,
            message.round_index,
            message.client,
            len(message.payloads),
            message.samples,
            message.loss,
        )
    ]
    for index, payload in message.payloads.items():
        parts.append(_LAYER.pack(index, 0, len(payload)))
        if flags:
            parts.append(_SCALAR.pack(message.scalars[index]))
        parts.append(payload)
    return b"".join(parts)


def unpack(data: bytes) -> Message:
    """Read a message back.

    Args:
        data: What :func:`pack` wrote.

    Returns:
        The message.

    Raises:
        DataError: The bytes are not one whole message of this version.
    """
    if len(data) < _MESSAGE.size:
        raise DataError(f"the message has {len(data)} bytes, expected at least {_MESSAGE.size}; ask for it again")
    magic, version, flags, round_index, client, count, samples, loss = _MESSAGE.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise DataError(
            f"not a fedlama message of version {_VERSION} (found {magic!r}, version {version}); "
            "run the same fedlama on both sides"
        )
    payloads: dict[int, bytes] = {}
    scalars: dict[int, float] = {}
    at = _MESSAGE.size
    try:
        for _ in range(count):
            index, _reserved, length = _LAYER.unpack_from(data, at)
            at += _LAYER.size
            if index in payloads:
                raise DataError(f"layer {index} occurs twice in a message of client {client}; refuse it")
            if flags & _WITH_SCALARS:
                (scalars[index],) = _SCALAR.unpack_from(data, at)
                at += _SCALAR.size
            payloads[index] = data[at : at + length]
            at = min(at + length, len(data) + 1)  # a length may be as large as 2^64; one beyond the end is enough
    except struct.error:
        at = len(data) + 1
    if at != len(data):
        raise DataError(
            f"the message of client {client} has {len(data)} bytes, but its headers describe another length; "
            "it was damaged on the way, ask for it again"
        )
    return Message(round_index, client, payloads, scalars, samples, loss)


def message_bytes(payload_lengths: Sequence[int], *, scalars: bool) -> int:
    """Return the length of a packed message without packing it.

    Args:
        payload_lengths: Bytes of each layer's payload.
        scalars: Whether each layer carries its discrepancy scalar.

    Returns:
        Bytes.

    >>> message_bytes([400, 40], scalars=True)
    528
    """
    per_layer = LAYER_HEADER_BYTES + (SCALAR_BYTES if scalars else 0)
    return MESSAGE_HEADER_BYTES + sum(payload_lengths) + per_layer * len(payload_lengths)
