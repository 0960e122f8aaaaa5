"""A layer's weighted change in fixed point: whole numbers, whose sums modulo a power of two are exact in any order.

Client i sends q_i = round(2^40 p_i (x_i - r)) modulo 2^64, with r the value that every client received last, and
round(2^80 p_i ||x_i - r||^2) modulo 2^128. The server adds them up, and with P = sum_i p_i over the clients that
answered the mean is r + 2^-40 sum_i q_i / P. Rounding errors are at most 2^-41 per client. Masks that cancel modulo the
same powers of two change no bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.core.averaging import as_dtype, difference, squared_norm, wide_dtype
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.api import Values
from fedlama.errors import DataError

FRACTION = 40
"""Bits after the point of a number."""
SCALAR_FRACTION = 80
"""Bits after the point of a discrepancy or a loss."""
LIMIT = 2.0**22
"""The largest change of a number; sums of weighted changes then stay below 2^63."""
SCALAR_LIMIT = 2.0**46
"""The largest discrepancy or loss; sums over 1,000 clients stay below 2^127 after scaling."""
SCALAR_BYTES = 16
NO_WORDS: NDArray[np.uint64] = np.zeros(0, np.uint64)
"""Of something that has a scalar only."""
_MODULUS = 1 << (8 * SCALAR_BYTES)


@dataclass(frozen=True)
class FixedPoint:
    """Whole numbers of one layer.

    Attributes:
        words: Of its tensors one after another, modulo 2^64; uint64 of shape (numbers,).
        scalar: Of its discrepancy, modulo 2^128.
    """

    words: NDArray[np.uint64]
    scalar: int

    def __add__(self, other: FixedPoint) -> FixedPoint:
        """Return the sum, modulo."""
        return FixedPoint(self.words + other.words, (self.scalar + other.scalar) % _MODULUS)

    def __sub__(self, other: FixedPoint) -> FixedPoint:
        """Return the difference, modulo."""
        return FixedPoint(self.words - other.words, (self.scalar - other.scalar) % _MODULUS)

    def to_bytes(self) -> bytes:
        """Return the numbers, little-endian."""
        return self.words.astype("<u8").tobytes() + self.scalar.to_bytes(SCALAR_BYTES, "little")

    @classmethod
    def from_bytes(cls, data: bytes) -> FixedPoint:
        """Read back what :meth:`to_bytes` wrote.

        >>> FixedPoint.from_bytes(bytes([7]) + bytes(7) + bytes([9]) + bytes(15))
        FixedPoint(words=array([7], dtype=uint64), scalar=9)
        """
        end = len(data) - SCALAR_BYTES
        words = np.frombuffer(data[:end], "<u8").astype(np.uint64)
        return cls(words, int.from_bytes(data[end:], "little"))


def total(parts: Iterable[FixedPoint]) -> FixedPoint:
    """Return the sum of one or more layers' numbers, modulo."""
    first, *others = parts
    words, scalar = first.words.copy(), first.scalar
    for part in others:
        words += part.words
        scalar += part.scalar
    return FixedPoint(words, scalar % _MODULUS)


def numbers_of(layer: Layer) -> int:
    """Return how many numbers a layer has; a complex one counts twice."""
    return sum(spec.size * (2 if spec.dtype.is_complex else 1) for spec in layer.tensors)


def payload_length(layer: Layer) -> int:
    """Return the bytes of a layer's numbers."""
    return 8 * numbers_of(layer) + SCALAR_BYTES


def weighted_change(
    layer: Layer, values: Mapping[str, Tensor], reference: Mapping[str, Tensor], weight: float, square: float = 0.0
) -> FixedPoint:
    """Return a client's weighted change of a layer.

    Args:
        layer: The layer.
        values: x_i by tensor name.
        reference: r likewise.
        weight: p_i.
        square: ||x_i - r||^2.

    Raises:
        DataError: A value is not finite, or changed by more than :data:`LIMIT`.

    >>> from fedlama.core.layers import Layer, TensorSpec
    >>> layer = Layer("a", (TensorSpec("a", (2,), torch.float32, True),), True)
    >>> q = weighted_change(layer, {"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([1.0, 1.0])}, 0.5, 5.0)
    >>> [word / 2**40 for word in q.words.view("int64").tolist()], q.scalar / 2**80
    ([1.0, -0.5], 2.5)
    """
    parts = [np.zeros(0, np.int64)]
    for spec in layer.tensors:
        change = _change(values[spec.name], reference[spec.name])
        if not bool((change.abs() <= LIMIT).all()):
            raise DataError(
                f"layer {layer.name!r} holds NaN, infinity or changes beyond {LIMIT:g}, which sums in fixed point "
                "cannot hold; lower the learning rate or check that client's data"
            )
        parts.append((change * (weight * 2.0**FRACTION)).round().to(torch.int64).cpu().numpy())
    return FixedPoint(
        np.concatenate(parts).view(np.uint64), scalar_of(weight * square, f"the change of {layer.name!r}")
    )


def squared_change(layer: Layer, values: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return ||x_i - r||^2 over the trainable tensors of a layer.

    Args:
        layer: The layer.
        values: x_i by tensor name.
        reference: r likewise.
    """
    total = 0.0
    for spec in layer.tensors:
        if spec.trainable:
            wide = wide_dtype(spec.dtype)
            total += squared_norm(values[spec.name].to(wide) - reference[spec.name].to(wide))
    return total


def scalar_of(value: float, what: str) -> int:
    """Return a discrepancy or a loss as a whole number.

    Args:
        value: The number.
        what: Its name, for the error.

    Raises:
        DataError: It is not finite or too large.
    """
    if not abs(value) <= SCALAR_LIMIT:
        raise DataError(
            f"{what} is {value:g}, expected a finite number of at most {SCALAR_LIMIT:g}; lower the learning rate or "
            "check that client's data"
        )
    return round(math.ldexp(value, SCALAR_FRACTION)) % _MODULUS


def number_of(scalar: int) -> float:
    """Return the number that :func:`scalar_of` or a sum of its results stands for.

    >>> number_of(scalar_of(-0.75, "the loss"))
    -0.75
    """
    signed = scalar - _MODULUS if scalar >= _MODULUS // 2 else scalar
    return math.ldexp(signed, -SCALAR_FRACTION)


def mean_of(
    layer: Layer, summed: FixedPoint, weights: Sequence[float], reference: Mapping[str, Tensor]
) -> tuple[Values, float]:
    """Return a layer's mean, and the weighted mean of the clients' ||x_i - r||^2.

    Args:
        layer: The layer.
        summed: The sum of the weighted changes.
        weights: p_i of the clients that are in it.
        reference: r by tensor name.
    """
    share, values, at = math.fsum(weights), Values(), 0
    changes = torch.from_numpy(summed.words.view(np.int64)).to(torch.float64) / (share * 2.0**FRACTION)
    for spec in layer.tensors:
        count = spec.size * (2 if spec.dtype.is_complex else 1)
        values[spec.name] = _moved(spec, reference[spec.name], changes[at : at + count])
        at += count
    return values, number_of(summed.scalar) / share


def _change(value: Tensor, reference: Tensor) -> Tensor:
    """Return x - r in float64, flat; 0 where both are the same infinity."""
    if value.is_complex():
        value, reference = torch.view_as_real(value), torch.view_as_real(reference)
    if value.is_floating_point():
        return difference(value.double(), reference.double().to(value.device)).reshape(-1)
    return (value.to(torch.int64) - reference.to(value.device, torch.int64)).double().reshape(-1)


def _moved(spec: TensorSpec, reference: Tensor, change: Tensor) -> Tensor:
    """Return r + change in the dtype of a tensor; whole numbers are rounded half to even."""
    if spec.dtype.is_complex:
        wide = torch.view_as_real(reference.to(torch.complex128))
        return torch.view_as_complex(wide + change.view(wide.shape).to(wide.device)).to(spec.dtype)
    if spec.dtype.is_floating_point:
        return as_dtype(reference.double() + change.view(spec.shape).to(reference.device), spec.dtype)
    moved = reference.to(torch.int64) + change.view(spec.shape).round().to(reference.device, torch.int64)
    return moved.to(spec.dtype)
