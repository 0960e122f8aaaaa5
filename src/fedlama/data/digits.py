"""Handwritten digits, the small real data set that comes with fedlama: nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

import numpy as np
import torch

from fedlama.core.registry import register
from fedlama.data.arrays import Dataset


def load() -> Dataset:
    """Load 1,797 grey images of 8x8 pixels, split into 1,437 training and 360 test rows.

    Returns:
        Images uint8 (N, 1, 8, 8), labels int64 (N,) in 0..9. The source's 17 grey levels 0..16 are stretched to 0..255
        (``round(v * 255 / 16)``, one to one), so that transforms and models treat them like any other image.

    The split is fixed: rows sorted by class, in stored order within it, and every fifth of them from the first on
    is a test row, so that each class has 35 to 37 test rows. Both parts keep the stored order.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0; its test part (13 writers), as distributed with
    scikit-learn 1.9.1 (``sklearn.datasets.load_digits``), kept in that order. Resource ``digits.npz``: x uint8 (1797,
    8, 8) in 0..16, y uint8 (1797,); sha256 6f801551877abf69fbf3711373bb642a18dc933430a3385cd6febc235225ea6f.

    >>> digits = load()
    >>> tuple(digits.train_x.shape), tuple(digits.test_x.shape)
    ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    with resources.files("fedlama.data").joinpath("digits.npz").open("rb") as stream, np.load(stream) as arrays:
        levels, labels = arrays["x"], arrays["y"].astype(np.int64)
    x = torch.from_numpy(np.rint(levels[:, None] * (255 / 16)).astype(np.uint8))  # (rows, channels, height, width)
    y = torch.from_numpy(labels)
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[torch.from_numpy(np.argsort(labels, kind="stable")[::5].copy())] = True
    return Dataset("digits", x[~is_test], y[~is_test], x[is_test], y[is_test], classes=10).check()


@register("data")
@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8x8, embedded in the package: nothing to download."""

    name: ClassVar[str] = "digits"

    def load(self) -> Dataset:
        """Read the embedded file; see :func:`load`."""
        return load()
