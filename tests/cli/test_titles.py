"""Titles in narrow tables: broken between settings, never inside of a word, and nothing is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from fedlama.cli.titles import Title, broken

LONG = "FedAvg(6) + sgd(learning_rate=1.5, momentum=0.9)"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (60, [LONG]),
        (30, ["FedAvg(6) + sgd(", "learning_rate=1.5,", "momentum=0.9)"]),
        (20, ["FedAvg(6) + sgd(", "learning_rate=1.5,", "momentum=0.9)"]),
        (15, ["FedAvg(6) +", "sgd(", "learning_rate=", "1.5,", "momentum=0.9)"]),
    ],
)
def test_a_title_is_broken_between_its_settings(width: int, lines: list[str]) -> None:
    assert broken(LONG, width) == lines


@pytest.mark.parametrize("width", range(1, 60))
def test_nothing_is_lost(width: int) -> None:
    assert "".join(broken(LONG, width)).replace(" ", "") == LONG.replace(" ", "")


def test_a_cell_takes_the_lines_that_it_needs() -> None:
    table = Table("method", "value")
    table.add_row(Title("FedLAMA(6, 4) + differences(bits=4)\n1 of 3 diverged"), "x" * 12)
    shown = io.StringIO()
    Console(width=36, file=shown).print(table)
    words = [line.split("│")[1].strip() for line in shown.getvalue().splitlines() if "│" in line]
    assert words == ["FedLAMA(6, 4) +", "differences(", "bits=4)", "1 of 3 diverged"]
