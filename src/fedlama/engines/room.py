"""How many clients can advance at once in the memory that is left."""

from __future__ import annotations


def clients_that_fit(free: int, one: int, two: int, margin: float = 0.2) -> int:
    """Return how many clients can take a step together, at least one.

    Need is taken to grow evenly from the second client on: what the first takes beyond that is shared by all.

    Args:
        free: Bytes that can still be had.
        one: Bytes that a step of one client takes at its peak.
        two: Bytes that a step of two clients takes.
        margin: Share of the free bytes to leave alone: memory is handed out in pieces that leave gaps, and kernels for
            many clients may want more room of their own than those for two.

    >>> clients_that_fit(free=1000, one=120, two=200)
    9
    >>> clients_that_fit(free=1000, one=900, two=1700)
    1
    """
    return max(1 + int((1.0 - margin) * free - one) // max(two - one, 1), 1)
