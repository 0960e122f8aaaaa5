"""Fewer rows and smaller pictures: settings that every data set takes, ours and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlama.core.deprecations import with_first_words
from fedlama.data import Dataset
from fedlama.data.reduction import Reduction, shrink
from fedlama.errors import ConfigError, DataError
from fedlama.experiment import prepare, read, resolve
from tests.experiment.helpers import experiment

OWN = """
import torch
from fedlama.data import Dataset

def mine(rows: int = 12) -> Dataset:
    x, y = torch.rand(rows, 5), torch.arange(rows) % 2
    return Dataset("mine", x, y, x, y, classes=2)

def squares() -> Dataset:
    x, y = torch.zeros(40, 1, 6, 6, dtype=torch.uint8), torch.arange(40) % 2
    return Dataset("squares", x, y, x, y, classes=2)
"""


def numbered(rows: int) -> Dataset:
    """Row i is the number i, its label i % 2, and its group i // 2."""
    x, y = torch.arange(rows, dtype=torch.float32)[:, None], torch.arange(rows) % 2
    return Dataset("numbered", x, y, x, y, 2, torch.arange(rows) // 2, torch.arange(rows) // 2)


def test_rows_keep_their_labels_and_groups_and_their_order() -> None:
    data = Reduction(rows=20, test_rows=7).apply(numbered(100))
    rows = data.train_x[:, 0].long()
    assert len(rows) == 20
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() != list(range(20))
    assert data.train_y.equal(rows % 2)
    assert data.groups is not None
    assert data.groups.equal(rows // 2)
    assert len(data.test_x) == 7
    assert data.test_x[:, 0].long().tolist() != rows[:7].tolist()


def test_the_rows_are_the_same_in_every_run() -> None:
    assert Reduction(rows=6).apply(numbered(40)).train_x[:, 0].tolist() == [2, 4, 7, 14, 25, 31]


def test_nothing_to_do_returns_the_data_set_itself() -> None:
    data = numbered(4)
    assert Reduction().apply(data) is data


def test_areas_are_averaged_exactly() -> None:
    picture = torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4)
    assert shrink(picture, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert shrink(picture, 4).equal(picture)
    thirds = torch.tensor([[[[0.0, 3.0, 6.0]] * 3]])
    assert shrink(thirds, 2)[0, 0, 0].tolist() == [1.0, 5.0]  # (0 + 3/2) / 1.5 and (3/2 + 6) / 1.5


def test_bytes_stay_bytes_and_pictures_become_square() -> None:
    pictures = torch.full((3, 2, 6, 9), 200, dtype=torch.uint8)
    small = shrink(pictures, 4)
    assert small.dtype == torch.uint8
    assert small.shape == (3, 2, 4, 4)
    assert (small == 200).all()


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (Reduction(rows=101), "data.rows is 101, but numbered has 100 training rows; choose 100 or fewer"),
        (Reduction(test_rows=200), "data.test_rows is 200, but numbered has 100 test rows"),
        (Reduction(size=2), r"data.size is 2, but the inputs of numbered have shape \(1,\), expected pictures"),
    ],
)
def test_what_cannot_be_reduced_is_refused(reduction: Reduction, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reduction.apply(numbered(100))


def test_pictures_are_not_scaled_up() -> None:
    with pytest.raises(ConfigError, match=r"data\.size is 0, expected 1 or more"):
        resolve({"data": {"size": 0}})
    with pytest.raises(DataError, match="have 8 x 8 pixels and are only scaled down; choose 8 or less"):
        prepare(experiment("data.size=9"))


def test_an_experiment_takes_them_with_every_data_set() -> None:
    material = prepare(experiment("data.rows=200", "data.test_rows=50", "data.size=4"))
    assert material.dataset.train_x.shape == (200, 1, 4, 4)
    assert material.dataset.test_x.shape == (50, 1, 4, 4)


def test_they_are_written_only_where_they_are_set() -> None:
    plain, small = experiment(), experiment("data.rows=200")
    assert plain.to_json()["data"] == {"name": "digits"}
    assert small.to_json()["data"] == {"name": "digits", "rows": 200}
    assert plain.digest() == experiment("data.name=digits").digest() != small.digest()
    assert with_first_words(plain.to_json())["data"] == {"name": "digits"}
    assert resolve(small.to_json()) == small


def test_a_loader_of_the_users_own_has_them_too_and_its_own_key_comes_first(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    where = f"{tmp_path / 'own.py'}"
    first = prepare(read_own(where, "mine", {"rows": 30, "test_rows": 8}))
    assert len(first.dataset.train_x) == 30  # the loader's own `rows`
    assert len(first.dataset.test_x) == 8
    second = prepare(read_own(where, "squares", {"rows": 30, "size": 3}))
    assert second.dataset.train_x.shape == (30, 1, 3, 3)


def read_own(file: str, name: str, keys: dict[str, int]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    split = {"name": "iid", "clients": 2}
    return resolve({"batch_size": 4, "partition": split, "data": {"name": f"{file}:{name}", **keys}})


def test_they_stay_when_the_data_set_is_changed_and_are_suggested() -> None:
    own = resolve(read("digits", ["data.rows=9", "data.name=cifar", "data.path=x"]))
    assert own.to_json()["data"] == {"name": "cifar", "path": "x", "classes": 10, "complete": True, "rows": 9}
    with pytest.raises(ConfigError, match=r"unknown key 'data\.row'; did you mean 'rows'"):
        resolve({"data": {"row": 5}})
    with pytest.raises(ConfigError, match=r"unknown key 'test_rows'; did you mean 'data\.test_rows'"):
        resolve({"test_rows": 5})
