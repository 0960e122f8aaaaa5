"""From single samples, as a data set of the user's own gives them, to a batch of tensors.

A sample is what ``dataset[i]`` returns: a tensor, an array, a number, a picture, or a tuple or dict of them. The two
collate functions here make a batch of samples; one of torch's, of transformers' or of the user's own does as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlama.core.trees import Tree, as_tree, named_leaves, pad, signature, stack, words
from fedlama.data.pictures import as_picture
from fedlama.errors import DataError, cut

_NUMBERS = (bool, int, float, complex)


def as_sample(value: object, where: str) -> Tree:
    """Return one sample as a tree of tensors without a sample dimension.

    Args:
        value: A tensor, an array, a number, a list of numbers, a picture, or a tuple or dict of them. Pictures become
            float32 in [0, 1], (channels, height, width), as torchvision makes them. Entries that are None are left out.
        where: What it is, for messages.

    Raises:
        DataError: It holds something else, such as text; the message names the entry.

    >>> as_sample({"ids": [3, 4], "label": 1, "note": None}, "sample 0")
    {'ids': tensor([3, 4]), 'label': tensor(1)}
    """
    if isinstance(value, Mapping):
        return {key: as_sample(part, f"{where}, {key!r}") for key, part in value.items() if part is not None}
    if isinstance(value, np.ndarray) and not value.flags.writeable:  # of which torch makes no tensor
        value = value.copy()
    if isinstance(value, Tensor | np.ndarray) or (is_dataclass(value) and not isinstance(value, type)):
        return as_tree(value, where)
    if isinstance(value, _NUMBERS):
        return torch.tensor(value)
    if isinstance(value, np.generic):
        return as_tree(np.array(value)[None], where)[0]
    if isinstance(getattr(value, "mode", None), str):  # of the Python Imaging Library
        return _as_unit(torch.from_numpy(np.array(as_picture(value, where))))
    if isinstance(value, tuple):
        return tuple(as_sample(part, f"{where}, entry {index}") for index, part in enumerate(value))
    if isinstance(value, list):
        return _from_list(value, where)
    kind = "text" if isinstance(value, str) else type(value).__name__
    raise DataError(
        f"{where} is {kind}, expected a tensor, an array, a number, a picture, or a tuple or dict of them; convert it "
        "in the data set, leave it out, or give a collate_fn that does"
    )


def stacked(samples: Sequence[object], where: str = "the batch") -> Tree:
    """Return samples of equal shapes as one batch: the collate function that is used where none is given.

    Args:
        samples: What the data set gave for each.
        where: What they are, for messages.

    Raises:
        DataError: They are not tensors, or differ in structure or shape.

    >>> stacked([(1.0, 0), (2.0, 1)])
    (tensor([1., 2.]), tensor([0, 1]))
    """
    trees = [as_sample(sample, where) for sample in samples]
    try:
        return _joined(trees)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        odd = next((tree for tree in trees if signature(tree) != signature(trees[0])), trees[-1])
        raise DataError(
            f"{where} has samples of {words(trees[0])} and of {words(odd)}, expected one shape; give "
            "collate_fn=fedlama.PadCollate(), or one of your own, that makes them equal"
        ) from error


def _joined(trees: Sequence[Tree]) -> Tree:
    """Return trees as one with a new dimension 0; their structures are compared as they are joined, which is fast.

    Raises:
        TypeError, ValueError, RuntimeError or KeyError: They differ in structure, shape or dtype.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        if any(getattr(tree, "dtype", None) != first.dtype for tree in trees):  # which torch would convert
            raise TypeError("several dtypes")
        return torch.stack(list(trees))
    if type(first) is tuple:
        return tuple(_joined(parts) for parts in zip(*trees, strict=True))
    if type(first) is dict:
        if any(tree.keys() != first.keys() for tree in trees):
            raise KeyError("several structures")
        return {key: _joined([tree[key] for tree in trees]) for key in first}
    if any(signature(tree) != signature(first) for tree in trees):
        raise ValueError("several structures")
    return stack(trees)


@dataclass(frozen=True)
class PadCollate:
    """A collate function that fills samples of different lengths up to the longest of their batch.

    Args:
        fill: What to fill up with: one number, or one for each entry by its name, such as ``{"labels": -100}``; entries
            that are not named get 0.
        mask: Name of an entry that is added to samples that are dicts: 1 where the entry `of` is a sample's own, and 0
            where it was filled up; None for no mask.
        of: The entry whose length the mask has; by default the first.

    >>> batch = PadCollate({"labels": -100})([{"ids": [5, 6], "labels": [6, 7]}, {"ids": [8], "labels": [9]}])
    >>> batch["ids"].tolist(), batch["labels"].tolist()
    ([[5, 6], [8, 0]], [[6, 7], [9, -100]])
    """

    fill: float | Mapping[str, float] = field(default=0)
    mask: str | None = None
    of: str | None = None

    def __call__(self, samples: Sequence[object]) -> Tree:
        """Return the batch.

        Args:
            samples: What the data set gave for each.

        Raises:
            DataError: They cannot be filled up to one shape.
        """
        trees = [as_sample(sample, "the batch") for sample in samples]
        if self.mask is not None:
            trees = [self._masked(tree) for tree in trees]
        if len({(tuple(named_leaves(tree)), *_dimensions(tree)) for tree in trees}) > 1:
            odd = next(tree for tree in trees if _dimensions(tree) != _dimensions(trees[0]))
            raise DataError(
                f"the batch has samples of {words(trees[0])} and of {words(odd)}, expected the same entries with the "
                "same number of dimensions; make them equal in the data set"
            )
        return pad(trees, self.fill)

    def _masked(self, tree: Tree) -> Tree:
        if not isinstance(tree, dict) or self.mask in tree:
            return tree
        return {**tree, self.mask: torch.ones(len(tree[self.of or next(iter(tree))]), dtype=torch.int64)}


def _dimensions(tree: Tree) -> tuple[tuple[str, int, torch.dtype], ...]:
    return tuple((name, leaf.dim(), leaf.dtype) for name, leaf in named_leaves(tree).items())


def _from_list(value: list[Any], where: str) -> Tree:
    if not value or isinstance(value[0], Tensor | np.ndarray | Mapping | tuple):
        return [as_sample(part, f"{where}, entry {index}") for index, part in enumerate(value)] or torch.zeros(0)
    try:
        return torch.tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"{where} is a list that is not an array of numbers ({cut(error)}); convert it in the data set, or give a "
            "collate_fn that does"
        ) from error


def _as_unit(picture: Tensor) -> Tensor:
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture


def without_pandas(value: Any) -> Any:  # noqa: ANN401  (pandas is not imported here)
    """Return a frame of pandas as features, float32 (rows, columns), a series as a column, other values as they are.

    Numbers of 64 bits, in which pandas keeps all fractions, become float32; integers of a series stay integers.

    Args:
        value: A ``pandas.DataFrame``, a ``pandas.Series``, or anything else.

    Raises:
        DataError: A column holds text or missing values; the message names it.
    """
    if not hasattr(value, "iloc"):
        return value
    is_frame = hasattr(value, "columns")
    columns = [(f"column {name!r}", value[name]) for name in value.columns] if is_frame else [("the series", value)]
    for name, column in columns:
        if bool(column.isna().any()):
            row = int(np.flatnonzero(column.isna().to_numpy())[0])
            raise DataError(f"{name} has no value in row {row}; fill it in with pandas' fillna, or drop that row")
        if column.to_numpy().dtype.kind not in "biuf":
            raise DataError(
                f"{name} is {column.dtype}, expected numbers; leave it out, or make a column of numbers for each "
                "of its names"
            )
    array = value.to_numpy()
    return torch.from_numpy(np.array(array, np.float32 if is_frame or array.dtype.kind == "f" else None))  # a copy
