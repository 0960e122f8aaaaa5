"""Ways to damage valid input so that it still reaches deep: bytes, texts, and trees of plain values."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 0.5, -0.0, 1e-300, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30,
    "", "x", "0", "nan", "\u0000", "../../x", "\ud800", "\u202e", "x" * 3000, [], [[]], {}, {"": {}}, [1, "a", None],
)  # fmt: skip
_TOKEN = re.compile(rb"\s+|[\w.+-]+|.", re.DOTALL)


def damage_bytes(draw: Random, content: bytes) -> bytes:
    """Damage a file at a few places; one time in twenty leave it whole."""
    if draw.random() < 0.05:
        return content
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _damage_once(draw, data)
    return bytes(data)


def _damage_once(draw: Random, data: bytearray) -> None:
    # Headers are at the beginning, directories and checksums at the end.
    near = draw.choice((16, 128, len(data) or 1))
    at = draw.randrange(min(near, len(data))) if data else 0
    at = len(data) - 1 - at if data and draw.random() < 0.2 else at
    length = draw.choice((1, 2, 4, 8, 64))
    match draw.randrange(7):
        case 0 if data:
            data[at] ^= 1 << draw.randrange(8)
        case 1 if data:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
        case 2:
            del data[at:]
        case 3:
            data[at:at] = draw.randbytes(length)
        case 4:
            del data[at : at + length]
        case 5:
            data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
        case _:
            data += draw.randbytes(length)


def damage_text(draw: Random, content: bytes, words: Sequence[bytes]) -> bytes:
    """Damage a text token by token, with words that mean something to its reader."""
    if draw.random() < 0.1:
        return damage_bytes(draw, content)
    tokens = _TOKEN.findall(content)
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        at = draw.randrange(len(tokens) + 1)
        match draw.randrange(5):
            case 0:
                tokens[at : at + 1] = [draw.choice(words)]
            case 1:
                tokens[at:at] = [draw.choice(words)] * draw.choice((1, 1, 2, 500))
            case 2:
                del tokens[at : at + draw.choice((1, 2, 8))]
            case 3:
                tokens[at:at] = draw.choices(tokens or [b""], k=draw.choice((1, 3)))
            case _:
                other = draw.randrange(len(tokens) + 1)
                tokens[at:at] = tokens[other : other + 12]
    return b"".join(tokens)


def damage_value(draw: Random, value: Any) -> Any:  # noqa: ANN401
    """Damage a tree of dictionaries, lists and scalars at a few of its nodes; one time in twenty leave it whole."""
    value = copy.deepcopy(value)
    if draw.random() < 0.05:
        return value
    for _ in range(draw.choice((1, 1, 2, 4))):
        value = _damage_node(draw, value)
    return value


def _damage_node(draw: Random, value: Any) -> Any:  # noqa: ANN401
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value))) if _is_list(value) else []
    if not keys or draw.random() < 0.15:
        return copy.deepcopy(draw.choice(VALUES))
    key = draw.choice(keys)
    match draw.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[draw.choice(("x", "", "0", "name", "round", *keys))] = copy.deepcopy(value[draw.choice(keys)])
        case 1:
            value.insert(key, copy.deepcopy(value[key]))
        case _:
            value[key] = _damage_node(draw, value[key])
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def damage_json(draw: Random, content: bytes) -> bytes:
    """Damage a JSON text: mostly its values, sometimes its bytes."""
    match draw.randrange(10):
        case 0:
            return damage_bytes(draw, content)
        case 1:
            return damage_text(
                draw, content, (b"{", b"[", b"}", b"]", b",", b":", b"null", b"NaN", b"-Infinity", b"1e999")
            )
        case 2 if draw.random() < 0.1:
            return draw.choice((b"[", b'{"a":', b'{"round":')) * 100_000
        case _:
            return json.dumps(damage_value(draw, json.loads(content))).encode()
