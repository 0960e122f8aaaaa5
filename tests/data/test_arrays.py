"""Dataset.check finds bad data and names the place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlama.data import Dataset
from fedlama.errors import DataError

GOOD = Dataset(
    "toy",
    torch.zeros(3, 2),
    torch.tensor([0, 1, 2]),
    torch.zeros(1, 2),
    torch.tensor([0]),
    classes=3,
    groups=torch.tensor([0, 1, 1]),
    group_names=("ann", "bob"),
)


def test_check_returns_the_data_set_itself() -> None:
    assert GOOD.check() is GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": torch.tensor([[0.0, 0], [0, float("nan")], [0, 0]])}, "training part: row 1 holds nan"),
        ({"test_x": torch.tensor([[0.0, float("inf")]])}, "test part: row 0 holds inf"),
        ({"train_y": torch.tensor([0, 1, 3])}, "label 3 in row 2 is not in 0..2"),
        ({"train_y": torch.tensor([0, -1, 2])}, "label -1 in row 1 is not in 0..2"),
        ({"train_y": torch.tensor([0, 1])}, "3 inputs but 2 labels"),
        ({"train_y": torch.tensor([0, 1, 2], dtype=torch.int32)}, "labels are torch.int32, expected torch.int64"),
        ({"test_x": torch.zeros(0, 2), "test_y": torch.zeros(0, dtype=torch.int64)}, "test part: there are no rows"),
        ({"test_x": torch.zeros(1, 3)}, r"training rows have shape \(2,\) but test rows \(3,\)"),
        ({"groups": torch.tensor([0, 1])}, "groups are torch.int64"),
        ({"groups": torch.tensor([0, 1, 2])}, "group 2 in row 2 is not in 0..1"),
        ({"class_names": ("a",)}, "1 class names for 3 classes"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_check_names_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(GOOD, **changes).check()  # type: ignore[arg-type]


def test_labels_of_sequences_are_checked_too() -> None:
    x = torch.zeros(2, 3, dtype=torch.int64)
    wrong = torch.tensor([[0, 0, 0], [0, 9, 0]])
    with pytest.raises(DataError, match="label 9 in row 1"):
        Dataset("toy", x, wrong, x, x, classes=2).check()
