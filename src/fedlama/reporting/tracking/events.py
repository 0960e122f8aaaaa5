"""TensorBoard's event files, written without TensorBoard: records with checksums around one protocol-buffer message.

A record is its length (uint64), the length's checksum, the message and the message's checksum, little-endian; the
checksum is a masked CRC-32C (Castagnoli). The message is TensorFlow's Event: wall_time (field 1, double), step (2,
int64), file_version (3, string) or summary (5), which holds a value (1) per number: tag (1, string) and simple_value
(2, float).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78
_BYTES, _DOUBLE, _FLOAT, _VARINT = 2, 1, 5, 0


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes.

    Args:
        data: The bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def record(message: bytes) -> bytes:
    """Return a message as a record: with its length and both checksums.

    Args:
        message: The message.
    """
    length = struct.pack("<Q", len(message))
    return length + struct.pack("<I", _masked(length)) + message + struct.pack("<I", _masked(message))


def version_event(wall_time: float) -> bytes:
    """Return the first message of every event file.

    Args:
        wall_time: Seconds since 1970.
    """
    return _key(1, _DOUBLE) + struct.pack("<d", wall_time) + _text(3, "brain.Event:2")


def scalars_event(wall_time: float, step: int, numbers: Mapping[str, float]) -> bytes:
    """Return the message with a step's numbers.

    Args:
        wall_time: Seconds since 1970.
        step: The step, 0 or more.
        numbers: The numbers, by name.
    """
    values = b"".join(
        _block(1, _text(1, name) + _key(2, _FLOAT) + struct.pack("<f", number)) for name, number in numbers.items()
    )
    return _key(1, _DOUBLE) + struct.pack("<d", wall_time) + _key(2, _VARINT) + _varint(step) + _block(5, values)


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())


def _block(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
