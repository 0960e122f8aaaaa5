"""Randomness by address: every draw is a pure function of (seed, purpose, where it is used).

Nothing depends on how many numbers were drawn before, so a run resumes from its round number alone, engines that visit
the clients in another order draw the same numbers, and whole cohorts are drawn in one vectorised call.

The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), applied once per part of the address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The constants of SplitMix64: an odd increment, then two rounds of xor-shift and multiply, and a last xor-shift.
INCREMENT = 0x9E3779B97F4A7C15
FIRST, SECOND = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)
LAST_SHIFT = 31
_WORD = (1 << 64) - 1
_HALF_STEP = 2.0**-54  # keeps uniform draws away from 0


def _mix_one(value: int) -> int:
    """Mix one integer, in a tenth of the time that an array of one number takes."""
    value = (value + INCREMENT) & _WORD
    for shift, factor in (FIRST, SECOND):
        value = ((value ^ (value >> shift)) * factor) & _WORD
    return value ^ (value >> LAST_SHIFT)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix an array of integers; NumPy's arrays wrap around at 2^64 without a warning, its scalars would warn."""
    value = value + np.uint64(INCREMENT)
    for shift, factor in (FIRST, SECOND):
        value ^= value >> np.uint64(shift)
        value *= np.uint64(factor)
    value ^= value >> np.uint64(LAST_SHIFT)
    return value


def address(seed: int, purpose: str, *where: int | ArrayLike) -> NDArray[np.uint64]:
    """Hash an address to 64 random bits.

    Args:
        seed: The run's seed.
        purpose: What the number is for, such as ``"shuffle"``.
        where: Integers, or integer arrays that broadcast together: round, client, epoch, position and so on.

    Returns:
        uint64 array of the broadcast shape (shape (1,) when every part is a plain integer).

    >>> bool((address(0, "shuffle", [1, 2, 3]) == address(0, "shuffle", [1, 2, 3])).all())
    True
    >>> bool(address(0, "shuffle", 1)[0] == address(1, "shuffle", 1)[0])
    False
    """
    plain: list[int] = []
    for part in where:
        if not isinstance(part, int):
            break
        plain.append(part)
    key = np.array([_key(seed, purpose, plain)], dtype=np.uint64)
    for part in where[len(plain) :]:
        key = _mix(key ^ _mix(np.atleast_1d(np.asarray(part, dtype=np.int64)).view(np.uint64)))
    return key


def _key(seed: int, purpose: str, where: Iterable[int]) -> int:
    """Hash an address of plain integers to 64 bits."""
    # Not Python's hash(): that of text differs from process to process.
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    key = int.from_bytes(digest, "little")
    for part in (seed, *where):
        key = _mix_one(key ^ _mix_one(int(part) & _WORD))
    return key


def seed_of(seed: int, purpose: str, *where: int) -> int:
    """Return the address as one integer in [0, 2**63), to seed another library's generator with.

    Args:
        seed: The run's seed.
        purpose: As in :func:`address`.
        where: Integers, as in :func:`address`.
    """
    return _key(seed, purpose, where) >> 1


def uniform(seed: int, purpose: str, *where: int | ArrayLike) -> NDArray[np.float64]:
    """Return uniform numbers in (0, 1), float64 of the address's shape.

    Args:
        seed: The run's seed.
        purpose: As in :func:`address`.
        where: As in :func:`address`.
    """
    # The upper 53 bits are as many as a float64 holds.
    return (address(seed, purpose, *where) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + _HALF_STEP


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """Return a NumPy generator that belongs to this address alone.

    Args:
        seed: The run's seed.
        purpose: As in :func:`address`.
        where: Integers, as in :func:`address`.
    """
    return np.random.Generator(np.random.Philox(seed_of(seed, purpose, *where)))


def permutation(seed: int, purpose: str, size: int, *where: int) -> NDArray[np.int64]:
    """Return a uniform permutation of ``range(size)`` that belongs to this address.

    It sorts hashed keys and uses no sequential generator, so that a whole cohort can be shuffled in one call with the
    same result.

    Args:
        seed: The run's seed.
        purpose: As in :func:`address`.
        size: Number of elements.
        where: Integers, as in :func:`address`.

    Returns:
        int64 array of shape (size,).
    """
    return ranked(address(seed, purpose, *where, np.arange(size)))


def ranked(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the positions along the last axis in the order of their keys.

    Each key's lowest bits are replaced by its position. So no two keys are equal, and the keys themselves are sorted,
    which is several times faster than sorting positions by their keys.

    Args:
        keys: uint64 array of shape (..., size); not changed.

    Returns:
        int64 array of the same shape; each row is a permutation of ``range(size)``.

    >>> ranked(np.array([[5 << 40, 1 << 40, 3 << 40]], dtype=np.uint64))
    array([[1, 2, 0]])
    """
    size = keys.shape[-1]
    low = np.uint64((1 << max(size - 1, 0).bit_length()) - 1)
    marked = keys & ~low
    marked |= np.arange(size, dtype=np.uint64)
    marked.sort(axis=-1)
    marked &= low
    return marked.view(np.int64)


def keyed_halves(key: int, size: int) -> NDArray[np.uint16]:
    """Return uniform integers of 16 bits that belong to a key: four of each hashed position.

    Args:
        key: What :func:`seed_of` returned.
        size: How many.

    >>> bool((keyed_halves(7, 9)[:5] == keyed_halves(7, 5)).all())
    True
    """
    positions = _mix(np.arange(-(-size // 4), dtype=np.uint64))
    return _mix(np.uint64(key) ^ positions).astype("<u8", copy=False).view("<u2")[:size]
