"""Batches of every structure: what is a tree, and what is done with it."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

import fedlama as fl
from fedlama.core import trees

Named = namedtuple("Named", ["left", "right"])


@dataclass(frozen=True)
class Record:
    """A dataclass with an entry that may be missing."""

    x: Tensor
    mask: Tensor | None = None


class Encoding(UserDict[str, Any]):
    """A mapping as transformers return it."""


A, B = torch.arange(12.0).view(4, 3), torch.arange(4)
TREES: dict[str, Any] = {
    "tensor": A,
    "pair": (A, B),
    "list": [A, B],
    "dict": {"a": A, "b": B},
    "ordered": OrderedDict(a=A, b=B),
    "namedtuple": Named(A, B),
    "dataclass": Record(A, B),
    "dataclass with None": Record(A),
    "nested": ({"a": A, "more": (B, Record(A))}, B),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_keeps_its_structure(name: str) -> None:
    tree = trees.as_tree(TREES[name])
    assert type(tree) is type(TREES[name])
    every = trees.leaves(tree)
    assert trees.samples(tree) == 4
    assert list(trees.named_leaves(tree).values()) == every
    doubled = trees.map_leaves(lambda leaf: leaf * 2, tree)
    assert type(doubled) is type(tree)
    for before, after in zip(every, trees.leaves(doubled), strict=True):
        assert torch.equal(after, before * 2)
    for leaf, picked in zip(every, trees.leaves(trees.pick(tree, torch.tensor([2, 0]))), strict=True):
        assert torch.equal(picked, leaf[[2, 0]])
    stacked, joined = trees.stack([tree, doubled]), trees.cat([tree, doubled])
    assert {leaf.shape[:2] for leaf in trees.leaves(stacked)} == {(2, 4)}
    assert trees.samples(joined) == 8
    assert trees.signature(tree) == trees.signature(doubled)
    sums = vmap(lambda part: sum(leaf.double().sum() for leaf in trees.leaves(part)))(stacked)
    assert sums[1] == 2 * sums[0]


def test_arrays_and_mappings_of_other_libraries() -> None:
    tree = trees.as_tree(Encoding(x=np.ones((2, 3)), y=torch.zeros(2), none=None))
    assert type(tree) is dict
    assert list(tree) == ["x", "y"]
    assert torch.equal(tree["x"], torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(fl.DataError, match=r"the batch holds str, expected tensors or NumPy arrays"):
        trees.as_tree({"x": torch.zeros(2), "text": "a"})
    with pytest.raises(fl.DataError, match=r"the batch holds an array of <U1, expected an array of numbers"):
        trees.as_tree(np.array(["a"]))


def test_leaves_that_disagree_are_named() -> None:
    with pytest.raises(fl.DataError) as error:
        trees.samples({"ids": torch.zeros(4, 7), "labels": torch.zeros(5)}, "client 2")
    assert str(error.value) == (
        "client 2 holds ['ids'] (4, 7) (float32) and ['labels'] (5,) (float32), expected tensors with the same number "
        "of samples in dimension 0; give every tensor one row for each sample"
    )
    with pytest.raises(fl.DataError, match="holds no tensors"):
        trees.samples({})
    with pytest.raises(fl.DataError, match=r"holds tensor \(\)"):
        trees.samples(torch.tensor(1.0))


def test_padding() -> None:
    samples = [{"ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([1, 2, 3])}]
    samples.append({"ids": torch.tensor([8]), "labels": torch.tensor([4])})
    padded = fl.pad(samples, fill={"labels": -100})
    assert padded["ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert padded["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    pictures = fl.pad([torch.ones(1, 2, 3), torch.ones(1, 4, 1)], fill=-1.0)
    assert pictures.shape == (2, 1, 4, 3)
    assert pictures.sum() == 6 + 4 - 6 - 8
    assert trees.stack([(A, B), (A, B)])[0].shape == (2, 4, 3)


@pytest.mark.parametrize("name", ["dict", "namedtuple", "dataclass", "nested"])
def test_clients_of_trees(name: str) -> None:
    x, y = TREES[name], torch.tensor([0, 1, 0, 1])
    clients = fl.TensorClients(x, y, [[0, 1, 2], [3]], [2, 1])  # type: ignore[list-item]
    first, last = (clients.batch(0, step, seed=0) for step in range(2))
    assert [trees.samples(batch) for batch in (first, last)] == [2, 1]
    (order,) = [clients.batch_rows(0, 0, 0)]
    for leaf, whole in zip(trees.leaves(first[0]), trees.leaves(x), strict=True):
        assert torch.equal(leaf, whole[order])
    several = clients.gather(np.stack([order, order]), [0, 0], [0, 0], 0)
    assert {leaf.shape[:2] for leaf in trees.leaves(several)} == {(2, 2)}
    assert clients.pair is None
    described = clients.__describe__()["data"]
    assert set(described) == {"inputs", "targets", "rows"}  # type: ignore[call-overload]
    whole_batches = fl.TensorClients((x, y), None, [[0, 1, 2], [3]], 1)  # type: ignore[list-item]
    assert trees.signature(whole_batches.batch(0, 0, 0)) == trees.signature(clients.batch(1, 0, 0))


def test_client_data_of_trees_are_joined_and_must_be_alike() -> None:
    given = [fl.ClientData({"a": A + i, "b": B}, None, 2) for i in range(2)]
    federation = fl.Federation(torch.nn.Linear(1, 1), given, fl.FedAvg(1), 1)
    source = federation._parts()["clients"]
    assert torch.equal(source.x["a"], torch.cat([A, A + 1]))
    other = fl.ClientData({"a": A[:, :2], "b": B}, None, 2)
    with pytest.raises(fl.DataError, match=r"client 1 has inputs \['a'\] of shape \(2,\) .*, but client 0 has \(3,\)"):
        fl.Federation(torch.nn.Linear(1, 1), [given[0], other], fl.FedAvg(1), 1).run()
    with pytest.raises(fl.DataError, match=r"client 1 has inputs \['a'\], but client 0 has \['a'\], \['b'\]; give all"):
        fl.Federation(torch.nn.Linear(1, 1), [given[0], fl.ClientData({"a": A}, None, 2)], fl.FedAvg(1), 1).run()
