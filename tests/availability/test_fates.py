"""Fates: drawn by address with the right frequencies, or read from a trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlama import Absence, Always, ConfigError, DataError, RandomAbsence, Trace
from fedlama.choices.availability.rules import Rules, rescaled

CLIENTS = list(range(400))


def shares(availability: RandomAbsence, rounds: int = 50) -> dict[str, float]:
    drawn = [fate for index in range(rounds) for fate in availability.fates(CLIENTS, index, seed=3)]
    return {fate: drawn.count(fate) / len(drawn) for fate in ("answers", "away", "dies")}  # type: ignore[arg-type]


@pytest.mark.parametrize("lasts", [1, 4])
def test_the_share_of_absent_rounds_is_the_one_asked_for(lasts: int) -> None:
    found = shares(RandomAbsence(away=0.3, dies=0.1, lasts=lasts))
    assert found["away"] == pytest.approx(0.3, abs=0.02)
    assert found["dies"] == pytest.approx(0.7 * 0.1, abs=0.01)


def test_absences_last_as_long_as_they_should() -> None:
    trace = np.array([RandomAbsence(away=0.2, lasts=5).fates(CLIENTS, index, seed=0) for index in range(60)]) == "away"
    starts = ~trace[:-6] & trace[1:-5]
    whole = np.logical_and.reduce([trace[1 + k : len(trace) - 5 + k] for k in range(5)])
    assert starts.sum() > 100
    assert whole[starts].all()


@given(
    st.lists(st.integers(0, 10**6), max_size=8, unique=True), st.integers(0, 10**6), st.integers(-(2**63), 2**63 - 1)
)
def test_a_fate_depends_on_client_round_and_seed_alone(clients: list[int], index: int, seed: int) -> None:
    availability = RandomAbsence(away=0.4, dies=0.4, lasts=2)
    alone = [availability.fates([client], index, seed)[0] for client in clients]
    assert availability.fates(clients, index, seed) == alone


def test_everyone_is_always_there() -> None:
    assert Always().fates([4, 7], 3, 0) == ["answers", "answers"]


def test_a_trace_tells_who_is_away_when() -> None:
    trace = Trace(absences=(Absence(1, 2, 3), Absence(1, 6, 6, "dies"), Absence(0, 3, 9)))
    found = [trace.fates([0, 1, 2], index, seed=5) for index in (1, 2, 3, 6, 10)]
    assert found == [
        ["answers", "answers", "answers"],
        ["answers", "away", "answers"],
        ["away", "away", "answers"],
        ["away", "dies", "answers"],
        ["answers", "answers", "answers"],
    ]


def test_a_trace_reads_json_and_csv_alike(tmp_path: Path) -> None:
    rows = [{"client": 1, "first_round": 2, "last_round": 3}, {"client": 0, "first_round": 5, "last_round": 5}]
    (tmp_path / "a.json").write_text(json.dumps([rows[0], {**rows[1], "fate": "dies"}]))
    (tmp_path / "a.csv").write_text("client,first_round,last_round,fate\n1,2,3,\n0,5,5,dies\n")
    expected = (Absence(1, 2, 3), Absence(0, 5, 5, "dies"))
    assert Trace(path=str(tmp_path / "a.json")).absences == expected
    assert Trace(path=str(tmp_path / "a.csv")).absences == expected


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", "[[1, 2, 3]]", '[{"client": 1}]', '[{"client": 1, "first_round": 0, "last_round": 1, "x": 1}]',
     '[{"client": "x", "first_round": 0, "last_round": 1}]', "[" * 5000],
)  # fmt: skip
def test_what_is_no_trace_is_said_to_be_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=r"bad.json is not a trace"):
        Trace(path=str(tmp_path / "bad.json"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RandomAbsence(away=1.0), r"away is 1.0, expected a number in \[0, 1\)"),
        (lambda: RandomAbsence(dies=-0.1), "dies is -0.1"),
        (lambda: RandomAbsence(lasts=0), "lasts is 0, expected 1 or more"),
        (lambda: RandomAbsence(min_replies=0), "min_replies is 0, expected a fraction"),
        (lambda: RandomAbsence(rejoin="later"), "rejoin is 'later'"),  # type: ignore[arg-type]
        (lambda: Absence(0, 5, 4), "last_round is 4, expected 5 or more"),
        (lambda: Absence(-1, 0, 0), "client is -1"),
        (lambda: Trace(), "absences is empty and there is no path"),
    ],
)
def test_nonsense_is_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match=r"nowhere.json cannot be read"):
        Trace(path="nowhere.json")


def test_shares_are_rescaled_and_untouched_when_all_answer() -> None:
    weights = [0.1, 0.2, 0.7]
    assert rescaled([2, 5, 9], weights, {2, 5, 9}) == weights
    assert rescaled([2, 5, 9], weights, {2, 9}) == [0.1 / (0.1 + 0.7), 0.7 / (0.1 + 0.7)]


@pytest.mark.parametrize(
    ("share", "asked", "needed"), [(1.0, 7, 7), (0.5, 5, 3), (0.5, 4, 2), (0.1, 5, 1), (0.3, 0, 1)]
)
def test_replies_that_are_needed(share: float, asked: int, needed: int) -> None:
    assert Rules(min_replies=share).needed(asked) == needed
