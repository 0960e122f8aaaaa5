"""Conversion of Hugging Face data sets: with stand-ins always, with the real library where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fedlama.data import huggingface
from fedlama.data.huggingface import Columns, Parts
from fedlama.errors import ConfigError, DataError, MissingExtraError


class Table:
    """The few things that are used of a ``datasets.Dataset``."""

    def __init__(self, **columns: list[object]) -> None:
        self.columns = columns

    @property
    def features(self) -> Mapping[str, object]:
        return dict.fromkeys(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> object:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def picture(value: int, shape: tuple[int, ...] = (2, 3)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full(shape, value, np.uint8)


def test_columns_are_found_and_groups_numbered_by_name() -> None:
    train = Table(img=[picture(1), picture(2), picture(3)], fine_label=[0, 2, 1], writer=["z", "a", "z"])
    test = Table(img=[picture(4)], fine_label=[1], writer=["b"])
    data = huggingface.from_splits("toy", train, test, Columns(group="writer"))
    assert data.train_x.shape == (3, 1, 2, 3)
    assert data.train_x[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.classes == 3
    assert data.group_names == ("a", "b", "z")
    assert data.groups is not None
    assert data.groups.tolist() == [2, 0, 2]
    assert data.test_groups is not None
    assert data.test_groups.tolist() == [1]


def test_colour_pictures_become_channels_first() -> None:
    table = Table(image=[picture(5, (4, 6, 3))], label=[0])
    assert huggingface.from_splits("toy", table, table).train_x.shape == (1, 3, 4, 6)


def test_rows_are_held_out_once_each() -> None:
    table = Table(x=[picture(value) for value in range(10)], y=list(range(10)))
    data = huggingface.from_splits("toy", table, None, parts=Parts(test_share=0.3, seed=5))
    assert len(data.test_y) == 3
    assert sorted(data.train_y.tolist() + data.test_y.tolist()) == list(range(10))
    assert data.train_x[:, 0, 0, 0].tolist() == data.train_y.tolist()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            Table(photo=[picture(0)], label=[0]),
            "no image column any of image, img, x, pixel_values; it has photo, label",
        ),
        (Table(image=[picture(0)], text=["a"]), "no label column"),
        (Table(image=[picture(0), picture(0, (3, 3))], label=[0, 1]), r"image 1 has shape \(1, 3, 3\)"),
        (Table(image=[picture(0)], label=["cat"]), "expected integers"),
        (Table(image=[], label=[]), "the split is empty"),
    ],
)
def test_wrong_tables_are_refused(table: Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        huggingface.from_splits("toy", table, table)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedlama\[datasets\]'"):
        huggingface.load("uoft-cs/cifar10")
    with pytest.raises(ConfigError, match="test_share is 2"):
        huggingface.Parts(test_share=2)


@pytest.mark.filterwarnings("default")  # The library and what it imports warn about themselves.
def test_the_real_library_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "who": datasets.Value("int64")}
    )
    rows = {"image": [picture(value, (4, 4, 3)) for value in (10, 20, 30)], "label": [0, 1, 1], "who": [3, 1, 3]}
    split = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(train=split, test=split.select([1])).save_to_disk(str(tmp_path / "pets"))
    data = huggingface.load(str(tmp_path / "pets"), Columns(group="who"))
    assert data.train_x.shape == (3, 3, 4, 4)
    assert data.train_x[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert data.class_names == ("cat", "dog")
    assert data.group_names == ("1", "3")
    assert len(huggingface.load(str(tmp_path / "pets"), parts=Parts(test=None, test_share=0.4)).test_y) == 1
    with pytest.raises(DataError, match="no split 'valid'"):
        huggingface.load(str(tmp_path / "pets"), parts=Parts(test="valid"))
