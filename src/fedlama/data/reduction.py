"""Settings that every data set takes beside its own: fewer rows and smaller pictures, for sweeps and first tries.

They are applied after a loader has returned, so a loader of the user's own has them too. Which rows are kept depends on
nothing but their number: not on the run's seed, so that seeds are compared on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.randomness import permutation
from fedlama.core.trees import Tree, pick, samples
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.errors import DataError

_SLICE = 1024
"""Pictures that are scaled in one go, so that no copy of a whole data set in floats is made."""
_BLOCK = 1 << 23
"""Pixels of them that are floats at the same time."""


@dataclass(frozen=True)
class Reduction:
    """Fewer rows, smaller pictures.

    Args:
        rows: Number of training rows that are kept, drawn at random; None for all. The groups (writers, users) of the
            rows stay with them.
        test_rows: Number of test rows that are kept, likewise.
        size: Height and width of the pictures, each pixel the average of the area that it covers; None to leave them.
    """

    rows: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    test_rows: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    size: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        given = [name for name in ("rows", "test_rows", "size") if getattr(self, name) is not None]
        problems = whole(self, *given, minimum=1)
        refuse([problem.replace(f"{type(self).__name__}: ", "data.", 1) for problem in problems])

    def apply(self, dataset: Dataset) -> Dataset:
        """Return the reduced data set.

        Args:
            dataset: The data set as its loader returned it; it is not changed.

        Raises:
            DataError: There are fewer rows, or the inputs are not pictures of at least that size.

        >>> x, y = torch.zeros(6, 1, 4, 4), torch.arange(6) % 2
        >>> reduced = Reduction(rows=3, size=2).apply(Dataset("toy", x, y, x, y, classes=2))
        >>> tuple(reduced.train_x.shape), tuple(reduced.test_x.shape)
        ((3, 1, 2, 2), (6, 1, 2, 2))
        """
        train = _chosen(dataset, "rows", self.rows, samples(dataset.train_x))
        test = _chosen(dataset, "test_rows", self.test_rows, samples(dataset.test_x))
        train_x, test_x = _taken(dataset.train_x, train), _taken(dataset.test_x, test)
        if self.size is not None:
            _check_pictures(dataset, self.size)
            train_x, test_x = shrink(train_x, self.size), shrink(test_x, self.size)
        if self == Reduction():
            return dataset
        return replace(
            dataset,
            train_x=train_x,
            train_y=_taken(dataset.train_y, train),
            groups=_taken(dataset.groups, train),
            test_x=test_x,
            test_y=_taken(dataset.test_y, test),
            test_groups=_taken(dataset.test_groups, test),
        )


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Scale pictures down: each new pixel is the average of the area that it covers, parts of pixels included.

    Args:
        pictures: uint8 or float (rows, channels, height, width), no side shorter than `size`.
        size: Height and width of the result.

    Returns:
        Tensor (rows, channels, size, size) of the same dtype; uint8 is rounded to the nearest number.

    >>> shrink(torch.tensor([[[[0, 3, 6], [0, 3, 6], [0, 3, 6]]]], dtype=torch.uint8), 2).tolist()
    [[[[1, 5], [1, 5]]]]
    """
    height, width = (_overlaps(side, size) for side in pictures.shape[2:])
    shrunk = pictures.new_empty(*pictures.shape[:2], size, size)  # (rows, channels, size, size)
    for start in range(0, len(pictures), _SLICE):
        part = slice(start, start + _SLICE)
        blocks = torch.split(pictures[part], max(_BLOCK // pictures[part, :, 0].numel(), 1), dim=2)
        scaled = height @ torch.cat([block.double() @ width.T for block in blocks], dim=2)
        shrunk[part] = scaled.round() if pictures.dtype == torch.uint8 else scaled
    return shrunk


def _overlaps(side: int, size: int) -> Tensor:
    """Return the share that each of `side` old pixels has in each of `size` new ones, float64 (size, side)."""
    # In units of 1 / size of an old pixel all bounds are integers, so the shares are exact before the division.
    new, old = torch.arange(size)[:, None] * side, torch.arange(side)[None, :] * size
    overlap = torch.minimum(new + side, old + size) - torch.maximum(new, old)
    return overlap.clamp_min(0).double() / side


def _chosen(dataset: Dataset, setting: str, wanted: int | None, rows: int) -> Tensor | None:
    """Return the numbers of the rows that are kept, in ascending order; None for all."""
    if wanted is None:
        return None
    if wanted > rows:
        part = "test" if setting == "test_rows" else "training"
        raise DataError(
            f"data.{setting} is {wanted}, but {dataset.name} has {rows} {part} rows; choose {rows} or fewer, or leave "
            "it out"
        )
    return torch.from_numpy(permutation(0, f"data.{setting}", rows)[:wanted]).sort().values


def _taken(values: Tree, rows: Tensor | None) -> Tree:
    return values if rows is None or values is None else pick(values, rows)


def _check_pictures(dataset: Dataset, size: int) -> None:
    shape = tuple(dataset.train_x.shape[1:]) if isinstance(dataset.train_x, Tensor) else ()
    if len(shape) != 3:
        raise DataError(
            f"data.size is {size}, but the inputs of {dataset.name} have shape {shape}, expected pictures (channels, "
            "height, width); leave data.size out"
        )
    if min(shape[1:]) < size:
        raise DataError(
            f"data.size is {size}, but the pictures of {dataset.name} have {shape[1]} x {shape[2]} pixels and are only "
            f"scaled down; choose {min(shape[1:])} or less"
        )
