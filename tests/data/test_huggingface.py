"""Conversion of Hugging Face data sets: with stand-ins always, with the real library where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlama.data import huggingface
from fedlama.data.huggingface import Columns, Parts
from fedlama.errors import ConfigError, DataError, MissingExtraError
from tests.cli.call import SMALL, fedlama, refused


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
        (Table(image=[picture(0)], label=[0.5]), r"row 0 holds 0\.5, expected class numbers"),
        (Table(image=[picture(0), picture(0)], label=[1, None]), r"row 1 has no label \(None\)"),
        (Table(image=[picture(0), picture(0)], label=[0, -1]), "label -1 in row 1 is negative"),
        (Table(image=[3], label=[1]), "image 0 is a single number"),
        (Table(image=[], label=[]), "the split is empty"),
    ],
)
def test_wrong_tables_are_refused(table: Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        huggingface.from_splits("toy", table, table)


def test_labels_may_be_names_booleans_or_columns() -> None:
    pictures = [picture(value) for value in range(3)]
    for labels, numbers in (
        (["cat", "ape", "cat"], [1, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        ([1.0, 0.0, 1.0], [1, 0, 1]),
        ([[1], [0], [1]], [1, 0, 1]),
        ([-1, 1, -1], [0, 1, 0]),
        ([[0, 1], [1, 0], [0, 1]], [1, 0, 1]),
    ):
        table = Table(image=pictures, label=list(labels))
        assert huggingface.from_splits("toy", table, table).train_y.tolist() == numbers
        held_out = huggingface.from_splits("toy", table, None, parts=Parts(test_share=0.3))
        assert sorted([*held_out.train_y.tolist(), *held_out.test_y.tolist()]) == sorted(numbers)


@pytest.mark.parametrize(
    ("dtype", "highest"), [("uint8", 255), ("uint16", 4095), ("uint16", 65535), ("int32", 100_000), ("float32", 1.0)]
)
def test_pictures_keep_their_numbers(dtype: str, highest: float) -> None:
    pil = pytest.importorskip("PIL.Image")
    values = (np.linspace(0, 1, 12).reshape(3, 4) * highest).astype(dtype)
    table = Table(image=[pil.fromarray(values), pil.fromarray(values[::-1].copy())], label=[0, 1])
    data = huggingface.from_splits("toy", table, table)
    assert data.train_x.shape == (2, 1, 3, 4)
    assert data.train_x.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
    assert data.train_x[0, 0].tolist() == values.astype(np.float32).tolist()
    assert data.train_x[1, 0].tolist() == values[::-1].astype(np.float32).tolist()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_no_mode_of_a_picture_is_cut(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    grey = pil.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    table = Table(image=[grey.convert("RGB" if mode in ("CMYK", "YCbCr", "HSV") else "L").convert(mode)], label=[0])
    assert huggingface.from_splits("toy", table, table).train_x[0, 0].tolist() == [[0, 255], [255, 0]]


def test_an_unknown_mode_is_refused() -> None:
    class Strange:
        mode = "XYZ;12"

    table = Table(image=[Strange()], label=[0])
    with pytest.raises(DataError, match=r"has the mode 'XYZ;12', expected one such as"):
        huggingface.from_splits("toy", table, table)


@pytest.mark.parametrize("first", ["grey", "coloured"])
def test_grey_pictures_among_coloured_ones_become_coloured(first: str) -> None:
    grey, coloured = picture(7), np.dstack([picture(1), picture(2), picture(3)])
    pictures = [grey, coloured, grey] if first == "grey" else [coloured, grey, coloured]
    mixed, only_grey = Table(image=list(pictures), label=[0, 1, 0]), Table(image=[grey], label=[1])
    data = huggingface.from_splits("toy", mixed, only_grey)
    assert data.train_x[:, :, 0, 0].tolist() == [[7] * 3 if shown is grey else [1, 2, 3] for shown in pictures]
    assert data.test_x[:, :, 0, 0].tolist() == [[7, 7, 7]]
    assert huggingface.from_splits("toy", only_grey, mixed).train_x.shape == (1, 3, 2, 3)


def test_pictures_of_different_depth_are_refused() -> None:
    table = Table(image=[picture(7), np.full((2, 3), 700, np.uint16)], label=[0, 1])
    with pytest.raises(DataError, match="image 1 is float32, the first uint8"):
        huggingface.from_splits("toy", table, table)


def test_arrays_of_four_channels_and_tensors_are_read_in_their_order() -> None:
    values = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
    last = Table(image=[values], label=[0])
    first = Table(image=[torch.from_numpy(values).permute(2, 0, 1)], label=[0])
    assert huggingface.from_splits("toy", last, first).train_x.shape == (1, 4, 5, 6)
    tiny = Table(image=[torch.arange(9, dtype=torch.uint8).reshape(3, 1, 3)], label=[0])
    assert huggingface.from_splits("toy", tiny, tiny).train_x[0].tolist() == [[[0, 1, 2]], [[3, 4, 5]], [[6, 7, 8]]]


def test_a_stream_is_refused_in_a_sentence() -> None:
    class Stream:
        features = None

    with pytest.raises(DataError, match=r"is a stream \(Stream\), expected a data set in memory; load it without"):
        huggingface.from_splits("toy", Stream(), None)  # type: ignore[arg-type]


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
    with pytest.raises(DataError, match=r"no split 'valid'.* set train and test to the names of two splits"):
        huggingface.load(str(tmp_path / "pets"), parts=Parts(test="valid"))
    formats = ["numpy", "torch"]
    for form in formats:
        shown = split.with_format(form)
        assert huggingface.from_splits("pets", shown, shown).train_x.equal(data.train_x)
    brighter = split.with_transform(lambda rows: {**rows, "image": [np.asarray(image) + 1 for image in rows["image"]]})
    assert huggingface.from_splits("pets", brighter, split).train_x.equal(data.train_x + 1)
    broken = split.with_transform(lambda rows: rows["nothing"])
    with pytest.raises(DataError, match=r"row 0 cannot be read .KeyError.* correct that row, or the transform"):
        huggingface.from_splits("pets", broken, broken)
    with pytest.raises(DataError, match=r"is a stream .IterableDataset."):
        huggingface.from_splits("pets", split.to_iterable_dataset(), None)


@pytest.mark.filterwarnings("default")  # The library and what it imports warn about themselves.
def test_sets_without_a_test_split_work_from_the_command_line(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [picture(value, (4, 4)).tolist() for value in range(64)], "label": [0, 1] * 32}
    split = datasets.Dataset.from_dict(rows)
    split.save_to_disk(str(tmp_path / "single"))
    datasets.DatasetDict(train=split, validation=split).save_to_disk(str(tmp_path / "two"))
    run = ("run", "partition.name=iid", "partition.clients=2", *SMALL[1:], "data.name=huggingface", "--quiet")
    out = f"--out={tmp_path / 'runs'}"
    for folder, keys in (("single", ["data.test_share=0.25"]), ("two", ["data.test=validation"])):
        assert refused(*run, f"data.dataset={tmp_path / folder}", out)[0].endswith(huggingface._SPLITS)
        called = fedlama(*run, f"data.dataset={tmp_path / folder}", *keys, out)
        assert (called.code, called.err) == (0, "")
    assert "test_share is 2" in refused(*run, "data.dataset=x", "data.test_share=2")[0]


def test_pictures_of_different_sizes_are_scaled_to_one() -> None:
    def pictures(*sides: int) -> list[object]:
        return [np.full((side, side + 1, 3), 10 * side, dtype=np.uint8) for side in sides]

    train, test = Table(image=pictures(4, 6, 5), label=[0, 1, 0]), Table(image=pictures(8), label=[1])
    data = huggingface.from_splits("mixed", train, test, Columns(size=3))
    assert data.train_x.shape == (3, 3, 3, 3)
    assert data.train_x[:, 0, 0, 0].tolist() == [40, 60, 50]
    assert data.test_x[0, 0, 0, 0] == 80
    with pytest.raises(DataError, match=r"image 0 has shape \(3, 4, 5\), expected a picture of at least 5 x 5 pixels"):
        huggingface.from_splits("mixed", train, test, Columns(size=5))
