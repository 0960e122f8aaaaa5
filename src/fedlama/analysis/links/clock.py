"""The clock: computes the wall-clock time of a run from its transfers, for any number of links.

Rounds are synchronous. For client i in a round

    t_i = s_i * (down_i + steps * compute_i + up_i)
    down_i = latency_i + 8 * max(bytes_i / down rate_i, bytes of all / server's sending rate)

and up_i likewise. A direction in which nothing is sent takes no time; s_i is the straggler's factor, or 1; the round
takes as long as its slowest client. The server's own arithmetic takes no time. Where the server is the bottleneck, its
capacity is shared fairly, so that all messages end at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlama.analysis.links.exchanges import Exchanges
from fedlama.analysis.links.link import Floats, Link, factors
from fedlama.core.randomness import uniform

_BITS_PER_BYTE = 8.0


@dataclass(frozen=True)
class Clock:
    """How long a run takes on one link.

    Attributes:
        link: The link.
        rounds: Seconds of each round.
        down: Seconds of each round that its slowest client spends receiving.
        compute: Seconds of each round that its slowest client spends computing.
        up: Seconds of each round that its slowest client spends sending.
    """

    link: Link
    rounds: Floats
    down: Floats
    compute: Floats
    up: Floats

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return float(self.rounds.sum())

    @property
    def elapsed(self) -> Floats:
        """Seconds at the end of each round."""
        return np.cumsum(self.rounds)


def clock(exchanges: Exchanges, links: Iterable[Link], *, seed: int = 0) -> list[Clock]:
    """Compute how long a run takes on several links.

    Args:
        exchanges: The transfers of the run; see :meth:`Exchanges.of`.
        links: The links.
        seed: Decides the clients' rates, their speed and who straggles, where a link draws them.

    Returns:
        One clock per link, in their order.

    Raises:
        ConfigError: A link gives values client by client, but not for every client that took part.
    """
    return [_time(exchanges, link, seed) for link in links]


def _time(seen: Exchanges, link: Link, seed: int) -> Clock:
    clients = seen.clients
    if not len(clients):
        nothing = np.zeros(seen.count)
        return Clock(link, nothing, nothing, nothing, nothing)
    rate = factors(seed, "link rate", link.rate_spread, clients)
    speed = factors(seed, "link compute", link.compute_spread, clients)
    latency = link.values("latency", clients)
    down = _transfer(seen, seen.bytes_down, link.values("down", clients) * rate, link.server_down, link.overhead)
    up = _transfer(seen, seen.bytes_up, link.values("up", clients) * rate, link.server_up, link.overhead)
    down = down + latency * seen.messages_down
    up = up + latency * seen.messages_up
    compute = link.values("compute", clients) * speed * seen.steps
    if link.straggler_share:
        late = uniform(seed, "straggler", seen.rounds, clients) < link.straggler_share
        slow = np.where(late, link.straggler_factor, 1.0)
        down, compute, up = down * slow, compute * slow, up * slow
    slowest = _slowest(seen.rounds, down + compute + up)
    at = seen.rounds[slowest]
    parts = [_spread(seen.count, at, part[slowest]) for part in (down, compute, up)]
    return Clock(link, parts[0] + parts[1] + parts[2], *parts)


def _transfer(
    seen: Exchanges, sizes: NDArray[np.int64], rates: Floats, server: float | None, overhead: float
) -> Floats:
    bits = sizes * (_BITS_PER_BYTE * (1.0 + overhead))
    seconds: Floats = bits / rates
    if server is not None:
        together = np.bincount(seen.rounds, weights=bits, minlength=seen.count)[seen.rounds]
        seconds = np.where(sizes > 0, np.maximum(seconds, together / server), 0.0)
    return seconds


def _slowest(rounds: NDArray[np.int64], seconds: Floats) -> NDArray[np.int64]:
    """Return the index of each round's slowest client among the entries."""
    order = np.lexsort((seconds, rounds))
    last = np.append(rounds[order][1:] != rounds[order][:-1], True)
    slowest: NDArray[np.int64] = order[last]
    return slowest


def _spread(count: int, at: NDArray[np.int64], values: Floats) -> Floats:
    """Return an array by round with the values at their rounds; a round without transfers takes no time."""
    out = np.zeros(count)
    out[at] = values
    return out
