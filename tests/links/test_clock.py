"""The clock against times worked out by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from fedlama import ConfigError
from fedlama.analysis.links import Exchanges, Link, clock
from fedlama.core.ledger import Direction, LayerPayload, Transfer

HEADERS = 40 + 16


def ship(round_index: int, direction: Direction, clients: tuple[int, ...], payload: int) -> Transfer:
    """One layer, whose message has `payload` bytes in all."""
    return Transfer(round_index, direction, clients, (LayerPayload("w", 1, payload - HEADERS),))


# Two rounds: clients 0 and 1 both ways, then client 1 alone sends.
ROUNDS = [
    [ship(0, "down", (0, 1), 1000), ship(0, "up", (0, 1), 500)],
    [ship(1, "up", (1,), 2000), ship(1, "evaluation", (1,), 4000)],
]
LINK = Link("test", up=8000.0, down=16000.0, latency=0.25, compute=0.1)  # 1000 bytes/s up, 2000 down


def test_one_link_by_hand() -> None:
    (one,) = clock(Exchanges.of(ROUNDS, [5, 3]), [LINK])
    np.testing.assert_allclose(one.down, [0.25 + 0.5, 0.0])
    np.testing.assert_allclose(one.compute, [0.5, 0.3])
    np.testing.assert_allclose(one.up, [0.25 + 0.5, 0.25 + 2.0])
    assert one.total == pytest.approx(2.0 + 2.55)
    np.testing.assert_allclose(one.elapsed, [2.0, 4.55])


def test_evaluation_takes_time_only_when_asked_for() -> None:
    (one,) = clock(Exchanges.of(ROUNDS, [5, 3], evaluation=True), [LINK])
    assert one.up[1] == pytest.approx(2 * 0.25 + 6.0)


def test_a_round_lasts_as_long_as_its_slowest_client() -> None:
    slow_computer = replace(LINK, compute=(0.1, 0.4))
    slow_link = replace(LINK, up=(800.0, 8000.0))
    by_compute, by_link = clock(Exchanges.of(ROUNDS[:1], [5]), [slow_computer, slow_link])
    assert by_compute.total == pytest.approx(0.75 + 2.0 + 0.75)
    assert by_link.total == pytest.approx(0.75 + 0.5 + 0.25 + 5.0)


def test_the_server_is_shared() -> None:
    """Two clients send 500 bytes each into 500 bytes a second: both end after two seconds."""
    (one,) = clock(Exchanges.of(ROUNDS, [5, 3]), [replace(LINK, server_up=4000.0)])
    np.testing.assert_allclose(one.up, [0.25 + 2.0, 0.25 + 4.0])


def test_overhead_lengthens_every_transfer() -> None:
    (one,) = clock(Exchanges.of(ROUNDS[:1], [5]), [replace(LINK, overhead=0.5)])
    assert (one.down[0], one.up[0]) == (pytest.approx(0.25 + 0.75), pytest.approx(0.25 + 0.75))


def test_stragglers_are_drawn_by_address() -> None:
    rounds = [[ship(index, "up", tuple(range(40)), 1000)] for index in range(50)]
    seen = Exchanges.of(rounds, [0] * 50)
    late = replace(LINK, latency=0.0, straggler_share=0.01, straggler_factor=7.0)
    first, again = clock(seen, [late, late], seed=3)
    (other,) = clock(seen, [late], seed=4)
    np.testing.assert_array_equal(first.rounds, again.rounds)
    assert set(np.round(first.rounds, 9)) == {1.0, 7.0}
    share = float((first.rounds > 1).mean())
    assert 0.1 < share < 0.6  # 1 - 0.99^40 = 0.33
    assert (first.rounds != other.rounds).any()
    (always,) = clock(seen, [replace(late, straggler_share=1.0)])
    np.testing.assert_allclose(always.rounds, 7.0)


def test_spread_keeps_the_median_and_each_client() -> None:
    clients = tuple(range(2001))
    rounds = [[ship(index, "up", (client,), 1000)] for index, client in enumerate(clients)]
    spread = replace(LINK, latency=0.0, rate_spread=0.5)
    (one,) = clock(Exchanges.of(rounds, [0] * len(rounds)), [spread])
    logs = np.log(one.rounds)
    assert float(np.median(logs)) == pytest.approx(0.0, abs=0.04)
    assert float(logs.std()) == pytest.approx(0.5, abs=0.03)
    (same,) = clock(Exchanges.of([[ship(0, "up", (7,), 1000)]], [0]), [spread])
    assert same.total == pytest.approx(float(one.rounds[7]))  # a client's link does not change with the round


def test_values_by_client_must_reach_all_clients() -> None:
    with pytest.raises(ConfigError, match="has up for 1 clients, expected also client 1, which took part"):
        clock(Exchanges.of(ROUNDS, [5, 3]), [replace(LINK, up=(8000.0,))])


def test_a_run_without_exchange_takes_no_time() -> None:
    (one,) = clock(Exchanges.of([[], []], [1, 1]), [LINK])
    assert one.rounds.tolist() == [0.0, 0.0]


def test_many_links_at_once_are_quick() -> None:
    clients = tuple(range(100))
    rounds = [[ship(index, "down", clients, 1000), ship(index, "up", clients, 1000)] for index in range(1000)]
    seen = Exchanges.of(rounds, [5] * 1000)
    links = [replace(LINK, up=1000.0 * (1 + index), straggler_share=0.1) for index in range(20)]
    start = time.perf_counter()
    assert len(clock(seen, links)) == 20
    assert time.perf_counter() - start < 10  # 2 million exchanges; about one second where this was written


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"up": 0.0}, "up is 0.0, expected a rate above 0"),
        ({"server_down": -1.0}, "server_down is -1.0"),
        ({"latency": -0.1}, "latency is -0.1, expected seconds of 0 or more"),
        ({"straggler_share": 1.5}, "expected 0 to 1"),
        ({"straggler_factor": 0.5}, "expected 1 or more"),
        ({"compute": float("nan")}, "compute is nan"),
    ],
)
def test_impossible_links_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(LINK, **changes)
