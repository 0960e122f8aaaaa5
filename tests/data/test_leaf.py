"""LEAF's JSON made by hand, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlama.data import leaf
from fedlama.errors import DataError


def content(users: dict[str, list[int]]) -> dict[str, object]:
    data = {user: {"x": [[label / 62] * 784 for label in labels], "y": labels} for user, labels in users.items()}
    return {"users": list(users), "num_samples": [len(labels) for labels in users.values()], "user_data": data}


def write(folder: Path, part: str, name: str, what: object) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / f"{name}.json").write_text(what if isinstance(what, str) else json.dumps(what))


def test_users_become_groups_over_both_parts(tmp_path: Path) -> None:
    write(tmp_path / "data", "train", "all_data_0", content({"f2": [1, 61], "f1": [3]}))
    write(tmp_path / "data", "train", "all_data_1", content({"f9": [5]}))
    write(tmp_path / "data", "test", "all_data_0", content({"f1": [3], "f2": [1]}))
    data = leaf.load(tmp_path)
    assert data.train_x.shape == (4, 1, 28, 28)
    assert data.group_names == ("f1", "f2", "f9")
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 1, 2]
    assert data.train_y.tolist() == [3, 1, 61, 5]
    assert data.train_x[:, 0, 0, 0].tolist() == pytest.approx([3 / 62, 1 / 62, 61 / 62, 5 / 62])
    assert data.test_groups is not None
    assert data.test_groups.tolist() == [0, 1]
    assert data.classes == 62


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('{"users": [', "not whole JSON"),
        ("[" * 100_000, "not whole JSON"),
        ({"users": []}, "lacks one of"),
        ({"users": [], "num_samples": [], "user_data": {}}, "name no users"),
        ({"users": ["a"], "num_samples": [], "user_data": {}}, "not two lists of one length"),
        ({"users": ["a"], "num_samples": [1], "user_data": {}}, "user a: no lists 'x' and 'y'"),
        ({"users": ["a"], "num_samples": [2], "user_data": {"a": {"x": [[0] * 784], "y": [1]}}}, "num_samples 2"),
        (
            {"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[0] * 700], "y": [1]}}},
            "lists of 784 numbers",
        ),
        (
            {"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [["z"] * 784], "y": [1]}}},
            "lists of 784 numbers",
        ),
        ({"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[0] * 784], "y": [0.5]}}}, "not integers"),
        (content({"a": [62]}), "label 62 in row 0 is not in 0..61"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, wrong: object, message: str) -> None:
    write(tmp_path, "train", "all", wrong)
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match=message):
        leaf.load(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", "all", json.dumps(content({"a": [0]})).replace("0.0", "NaN", 1))
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match="row 0 holds nan"):
        leaf.load(tmp_path)


def test_missing_folders_and_doubled_users_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sub-folders train and test"):
        leaf.load(tmp_path)
    (tmp_path / "train").mkdir()
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match=r"no \.json file"):
        leaf.load(tmp_path)
    write(tmp_path, "train", "one", content({"a": [1]}))
    write(tmp_path, "train", "two", content({"a": [1]}))
    with pytest.raises(DataError, match="user a is in another file"):
        leaf.load(tmp_path)
