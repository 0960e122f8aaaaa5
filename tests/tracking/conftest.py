"""A short run's records, made by hand."""

from __future__ import annotations

import pytest

from fedlama import RoundRecord, Score
from fedlama.core.ledger import LayerPayload, Transfer
from fedlama.core.records import LayerRecord


def record(index: int) -> RoundRecord:
    up = Transfer(index, "up", (0, 1), (LayerPayload("w", 10, 944),))  # 1000 bytes each with headers
    return RoundRecord(
        round_index=index,
        local_steps=5 * (index + 1),
        cohort=(0, 1),
        loss=2.0 - index,
        layers={"w": LayerRecord(2, index == 1, 0.5, 0.25 if index == 1 else None, 1888, 0)},
        transfers=(up,),
        score=Score.of_accuracy(0.75, 0.5) if index == 1 else None,
        seconds=0.125,
        evaluation_seconds=0.0,
    )


@pytest.fixture
def records() -> list[RoundRecord]:
    return [record(0), record(1)]


EXPECTED = {
    5: {"train/loss": 2.0, "megabytes/up": 0.002, "megabytes/down": 0.0, "seconds/round": 0.125, "interval/w": 2.0},
    10: {
        "train/loss": 1.0,
        "megabytes/up": 0.004,
        "megabytes/down": 0.0,
        "seconds/round": 0.125,
        "interval/w": 2.0,
        "test/accuracy": 0.75,
        "test/loss": 0.5,
        "discrepancy/w": 0.25,
    },
}
"""What every tracker receives of these records, by step."""
