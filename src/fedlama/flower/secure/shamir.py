"""Shamir's secret sharing: of n shares any t give the secret, and t - 1 say nothing about it.

A. Shamir, "How to share a secret", Communications of the ACM 22(11), 1979. The secret is the constant term of a random
polynomial of degree t - 1 over the integers modulo the smallest prime above 2^256; a share is its value at a point
other than 0. Written out because Flower's helper for it is not public, and pycryptodome's shares 16 bytes at a time in
pure Python: with 100 clients it takes seconds for one client.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from fedlama.errors import DataError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, points: Sequence[int], threshold: int) -> list[bytes]:
    """Split a secret.

    Args:
        secret: 32 bytes.
        points: One number of 1 or more for each holder of a share, all different.
        threshold: t, how many shares give the secret.

    Returns:
        33 bytes for each point.

    >>> shares = split(bytes(range(32)), points=[1, 2, 5], threshold=2)
    >>> combine({1: shares[0], 5: shares[2]}) == bytes(range(32))
    True
    """
    number = int.from_bytes(secret, "big")
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(points) or len({*points, 0}) <= len(points):
        raise ValueError("a secret has 32 bytes, and t is at most the number of points, which differ and are not 0")
    coefficients = [number, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value_at(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of t or more shares; of fewer, or of wrong ones, something else.

    Args:
        shares: Point to its share.

    Raises:
        DataError: The shares are not of one secret.
    """
    total = 0
    for point, share in shares.items():
        above, below = 1, 1
        for other in shares:
            if other != point:
                above, below = above * other % PRIME, below * (other - point) % PRIME
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise DataError("the shares are not of one secret; agree on new keys")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value_at(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value
