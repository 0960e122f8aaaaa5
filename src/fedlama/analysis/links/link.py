"""A link: the network between the server and its clients, and the speed of the clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlama.core.randomness import uniform
from fedlama.core.validation import at_least, normalise_numbers, refuse
from fedlama.errors import ConfigError

PerClient = float | tuple[float, ...]
"""One value for all clients, or one for each client in the order of their numbers."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """The network between the server and its clients, and how fast a client computes.

    Args:
        name: Its name.
        up: Bits per second from a client to the server.
        down: Bits per second from the server to a client.
        latency: Seconds until the first bit of a message arrives, one way.
        compute: Seconds per local step of a client.
        rate_spread: Spread of the clients' rates: each client's two rates are multiplied by exp(spread * z), z from a
            normal distribution by (seed, client), so that `up` and `down` are medians. With 0 all are equal.
        compute_spread: The same for the seconds per local step.
        straggler_share: Probability that a client straggles in a round, drawn by (seed, round, client).
        straggler_factor: Factor by which everything takes longer for a client that straggles.
        server_up: Bits per second that the server can receive from all clients together; None for no limit.
        server_down: Bits per second that the server can send to all clients together; None for no limit.
        overhead: Bytes that the transport adds, as a share of the bytes counted (0.03 for TCP/IP over Ethernet).
        note: One line that says what the link stands for.

    Raises:
        ConfigError: A number is out of range.
    """

    name: str
    up: PerClient
    down: PerClient
    latency: PerClient = 0.0
    compute: PerClient = 0.0
    rate_spread: float = 0.0
    compute_spread: float = 0.0
    straggler_share: float = 0.0
    straggler_factor: float = 1.0
    server_up: float | None = None
    server_down: float | None = None
    overhead: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "rate_spread", "compute_spread", "straggler_share", "overhead")
        problems += at_least(self, 1, "straggler_factor")
        if self.straggler_share > 1:
            problems.append(f"Link: straggler_share is {self.straggler_share!r}, expected 0 to 1; change it")
        for field in ("up", "down"):
            problems += _rates(field, _all(getattr(self, field)))
        for field in ("server_up", "server_down"):
            if getattr(self, field) is not None:
                problems += _rates(field, _all(getattr(self, field)))
        for field in ("latency", "compute"):
            if not all(0 <= value < math.inf for value in _all(getattr(self, field))):
                problems.append(f"Link: {field} is {getattr(self, field)!r}, expected seconds of 0 or more; change it")
        refuse(problems)

    def values(self, field: Literal["up", "down", "latency", "compute"], clients: NDArray[np.int64]) -> Floats:
        """Return a quantity of the given clients, before any spread.

        Args:
            field: The quantity.
            clients: Numbers of the clients, (clients,).

        Returns:
            One value per client, float64 (clients,).

        Raises:
            ConfigError: It is given for each client, but not for all of these.
        """
        given = getattr(self, field)
        if not isinstance(given, tuple):
            return np.full(len(clients), float(given))
        if len(clients) and int(clients.max()) >= len(given):
            raise ConfigError(
                f"link {self.name!r} has {field} for {len(given)} clients, expected also client {int(clients.max())}, "
                "which took part; give one value for each client from number 0, or one value for all"
            )
        return np.asarray(given, dtype=np.float64)[clients]


def factors(seed: int, purpose: str, spread: float, clients: NDArray[np.int64]) -> Floats:
    """Draw each client's factor exp(spread * z), by address.

    Args:
        seed: Decides the draws.
        purpose: The purpose in the address of the draws.
        spread: Standard deviation of the logarithm.
        clients: Numbers of the clients, (clients,).

    Returns:
        One factor per client with median 1, float64 (clients,).
    """
    if not spread:
        return np.ones(len(clients))
    radius = np.sqrt(-2.0 * np.log(uniform(seed, f"{purpose} radius", clients)))
    normal = radius * np.cos(2.0 * np.pi * uniform(seed, f"{purpose} angle", clients))  # Box and Muller
    return np.exp(spread * normal)


def _all(value: PerClient) -> Sequence[float]:
    return value if isinstance(value, tuple) else (value,)


def _rates(field: str, values: Sequence[float]) -> list[str]:
    if values and all(0 < value < math.inf for value in values):
        return []
    return [f"Link: {field} is {values[0] if len(values) == 1 else values!r}, expected a rate above 0; raise it"]
