"""The embedded digits are the recorded file, split as documented."""

from __future__ import annotations

import hashlib
from importlib import resources

import torch

from fedlama.data import digits


def test_the_resource_is_the_recorded_one() -> None:
    content = resources.files("fedlama.data").joinpath("digits.npz").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    assert found in (digits.load.__doc__ or "")


def test_the_split_is_fixed_and_stratified() -> None:
    data = digits.load()
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert torch.bincount(data.train_y).tolist() == [142, 146, 141, 147, 144, 146, 145, 143, 139, 144]
    assert torch.bincount(data.test_y).tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]


def test_grey_levels_are_stretched_one_to_one() -> None:
    data = digits.load()
    levels = torch.bincount(torch.cat([data.train_x, data.test_x]).flatten()).nonzero().flatten()
    assert data.train_x.dtype == torch.uint8
    assert len(levels) == 17
    assert (int(levels[0]), int(levels[-1])) == (0, 255)
