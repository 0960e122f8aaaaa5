"""Batches as nested structures of tensors: a tensor, or tuples, lists, dicts, namedtuples and dataclasses of them.

All tensors of a batch, its leaves, have the samples in dimension 0. The tree library is the one with which
``torch.func.vmap`` takes its arguments apart, so whatever is a batch here can be vectorised over clients. Dataclasses
are registered there when :func:`as_tree` first meets them. Mappings that the library does not know, such as the
``BatchEncoding`` of transformers, become dicts; a ``ModelOutput`` registers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from fedlama.errors import DataError

Tree = Any
"""A tensor, or a nested structure of tensors."""
Signature = tuple[Any, tuple[tuple[torch.Size, torch.dtype], ...]]
"""The structure of a tree, and the shape and dtype of every leaf; hashable."""


def as_tree(value: object, where: str = "the batch") -> Tree:
    """Return a value as a tree of tensors: NumPy arrays become tensors, and entries of a mapping that are None go.

    Args:
        value: What the user gave.
        where: What it is, for messages.

    Raises:
        DataError: It holds something else than tensors and arrays of numbers.

    >>> as_tree({"x": np.zeros(2), "mask": None})
    {'x': tensor([0., 0.], dtype=torch.float64)}
    """
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) is tuple:  # before the library: most batches are pairs
        return tuple(as_tree(part, where) for part in value)
    if isinstance(value, np.ndarray | np.generic):
        return _from_numpy(np.asarray(value), where)
    if pytree.tree_is_leaf(value):
        return _from_leaf(value, where)
    if type(value) is dict:
        return {key: as_tree(part, where) for key, part in value.items() if part is not None}
    parts, structure = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    return pytree.tree_unflatten([as_tree(part, where) for part in parts], structure)


def map_leaves(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Return a tree of the same structure with every leaf changed.

    >>> map_leaves(lambda leaf: leaf + 1, (torch.zeros(2), {"mask": torch.ones(2)}))
    (tensor([1., 1.]), {'mask': tensor([2., 2.])})
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if type(tree) is tuple:  # without the library's overhead, which a small model's local step would feel
        return tuple([map_leaves(change, part) for part in tree])
    return pytree.tree_map(change, tree)


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, in its order."""
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) is tuple:
        return [leaf for part in tree for leaf in leaves(part)]
    return cast(list[Tensor], pytree.tree_leaves(tree))


def named_leaves(tree: Tree) -> dict[str, Tensor]:
    """Return the tensors of a tree by the path that leads to them.

    >>> list(named_leaves((torch.zeros(2), {"mask": torch.ones(2)})))
    ['[0]', "[1]['mask']"]
    """
    return {pytree.keystr(path) or "tensor": leaf for path, leaf in pytree.tree_leaves_with_path(tree)}


def samples(tree: Tree, where: str = "the batch") -> int:
    """Return the number of samples, dimension 0 of all leaves.

    Args:
        tree: The tree.
        where: What it is, for messages.

    Raises:
        DataError: There are no leaves, one has no dimension, or they disagree.

    >>> samples({"tokens": torch.zeros(4, 7), "labels": torch.zeros(4)})
    4
    """
    every = leaves(tree)
    counts = {len(leaf) if leaf.dim() else -1 for leaf in every}
    if len(counts) == 1 and -1 not in counts:
        return counts.pop()
    raise DataError(
        f"{where} holds {words(tree) or 'no tensors'}, expected tensors with the same number of samples in dimension "
        "0; give every tensor one row for each sample"
    )


def pick(tree: Tree, rows: Tensor | slice | int) -> Tree:
    """Return some samples of a tree.

    Args:
        tree: Leaves of shape (samples, ...).
        rows: Row numbers, int64; or a slice, or one number, for views.
    """
    return map_leaves(lambda leaf: leaf[rows], tree)


def stack(trees: Sequence[Tree]) -> Tree:
    """Return trees of equal structure and shapes as one, whose leaves have a new dimension 0 of that length."""
    return _joined(torch.stack, trees)


def cat(trees: Sequence[Tree]) -> Tree:
    """Return trees of equal structure as one, one after another in dimension 0."""
    return _joined(torch.cat, trees)


def pad(trees: Sequence[Tree], fill: float | Mapping[str, float] = 0) -> Tree:
    """Return trees of equal structure as one, like :func:`stack`, where leaves may differ in size.

    Every dimension of a leaf is filled up at its end to the largest size.

    Args:
        trees: Single samples, for instance texts of different lengths.
        fill: What to fill up with: one number, or one for each leaf by the name of :func:`named_leaves` or its last
            key (others get 0), such as ``{"labels": -100}``.

    >>> pad([{"ids": torch.tensor([5, 6])}, {"ids": torch.tensor([7])}])
    {'ids': tensor([[5, 6],
            [7, 0]])}
    """
    flat = [named_leaves(tree) for tree in trees]
    padded = []
    for name in flat[0]:
        value = _fill_value(name, fill)
        parts = [tree[name] for tree in flat]
        sizes = [max(size) for size in zip(*(part.shape for part in parts), strict=True)]
        padded.append(torch.stack([_enlarged(part, sizes, value) for part in parts]))
    return pytree.tree_unflatten(padded, pytree.tree_structure(trees[0]))


def signature(tree: Tree) -> Signature:
    """Return what two trees must share so that :func:`stack` takes them."""
    every, structure = pytree.tree_flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in every)


def words(tree: Tree) -> str:
    """Return the shapes and dtypes of a tree in words.

    >>> words((torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)))
    'inputs (8, 3) (float32) and targets (8,) (int64)'
    >>> words({"tokens": torch.zeros(2, 5)})
    "['tokens'] (2, 5) (float32)"
    """
    named = named_leaves(tree)
    names = ["inputs", "targets"] if type(tree) is tuple and list(named) == ["[0]", "[1]"] else list(named)
    shown = [
        f"{name} {tuple(leaf.shape)} ({str(leaf.dtype).removeprefix('torch.')})"
        for name, leaf in zip(names, named.values(), strict=True)
    ]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _from_leaf(value: object, where: str) -> Tree:
    """Return what the tree library does not know as a tree: a dataclass that is registered now, or a mapping."""
    if is_dataclass(value) and not isinstance(value, type):
        _register(type(value))
        return as_tree(value, where)
    if isinstance(value, Mapping):
        return as_tree(dict(value), where)
    raise DataError(
        f"{where} holds {type(value).__name__}, expected tensors or NumPy arrays of numbers, in tuples, lists, dicts "
        "or dataclasses; convert it, or leave it out"
    )


def _register(kind: type[Any]) -> None:
    """Make a dataclass known to the tree library; fields that are None are not leaves."""

    def present(value: Any) -> dict[str, object]:  # noqa: ANN401
        given = {field.name: getattr(value, field.name) for field in fields(kind)}
        return {name: part for name, part in given.items() if part is not None}

    def flatten(value: object) -> tuple[list[object], tuple[str, ...]]:
        return list(present(value).values()), tuple(present(value))

    def flatten_with_keys(value: object) -> tuple[list[tuple[Any, object]], tuple[str, ...]]:
        named = present(value)
        return [(pytree.GetAttrKey(name), part) for name, part in named.items()], tuple(named)

    def unflatten(parts: Iterable[object], names: tuple[str, ...]) -> object:
        absent = {field.name: None for field in fields(kind) if field.name not in names}
        return kind(**absent, **dict(zip(names, parts, strict=True)))

    pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=flatten_with_keys,
    )


def _from_numpy(array: NDArray[Any], where: str) -> Tensor:
    if array.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(array))
    raise DataError(f"{where} holds an array of {array.dtype}, expected an array of numbers; convert it")


def _joined(join: Callable[[list[Tensor]], Tensor], trees: Sequence[Tree]) -> Tree:
    if isinstance(trees[0], Tensor):
        return join(list(trees))
    parts, structure = zip(*(pytree.tree_flatten(tree) for tree in trees), strict=True)
    return pytree.tree_unflatten([join(list(part)) for part in zip(*parts, strict=True)], structure[0])


def _fill_value(name: str, fill: float | Mapping[str, float]) -> float:
    if not isinstance(fill, Mapping):
        return fill
    last = name.rpartition("[")[2].strip("]'") if name.endswith("]") else name.rpartition(".")[2]
    return fill.get(name, fill.get(last, 0))


def _enlarged(leaf: Tensor, sizes: Sequence[int], value: float) -> Tensor:
    """Fill a leaf up at the end of every dimension."""
    missing = [amount for size, have in zip(sizes, leaf.shape, strict=True) for amount in (size - have, 0)]
    return functional.pad(leaf, missing[::-1], value=value)
