"""Normalisation in literal numbers, and augmentation against a plain loop over the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlama.core.randomness import address
from fedlama.data import Normalise, PadCropFlip
from fedlama.errors import ConfigError, DataError


def key(row: int, column: int, flip: int, span: int) -> np.uint64:
    """The smallest key that asks for this window, with all unused bits set."""
    high = ((1 << 31) - 1) << 33
    return np.uint64(high | flip << 32 | -(-(column << 16) // span) << 16 | -(-(row << 16) // span))


def one_by_one(x: Tensor, keys: NDArray[np.uint64], padding: int) -> Tensor:
    span, height, width = 2 * padding + 1, x.shape[-2], x.shape[-1]
    images = []
    for image, bits in zip(x, keys.tolist(), strict=True):
        top, left = (bits & 0xFFFF) * span >> 16, (bits >> 16 & 0xFFFF) * span >> 16
        cut = functional.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
        images.append(cut.flip(-1) if bits >> 32 & 1 else cut)
    return torch.stack(images)


def test_normalise_per_channel_in_literal_numbers() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8)
    fitted = Normalise.per_channel(images)
    assert fitted.mean.flatten().tolist() == pytest.approx([0.5, 0.2])
    assert fitted.std.flatten().tolist() == [0.5, 1.0]  # A constant channel is divided by 1.
    assert fitted(images).flatten().tolist() == pytest.approx([-1.0, 1.0, 0.0, 0.0], abs=1e-6)


def test_normalise_per_pixel_standardises_the_training_images() -> None:
    images = torch.randint(0, 256, (5000, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = Normalise.per_pixel(images)(images)
    assert out.dtype == torch.float32
    assert out.mean(0).abs().max() < 1e-5
    assert (out.std(0, correction=0) - 1).abs().max() < 1e-5


def test_normalise_takes_floats_as_they_are_and_any_leading_dimensions() -> None:
    half = torch.full((1, 1, 1), 0.5)
    transform = Normalise(half, half).to("cpu")
    assert transform(torch.ones(2, 3, 4, 1, 2, 2)).equal(torch.ones(2, 3, 4, 1, 2, 2))


def test_normalise_refuses_what_it_cannot_divide_by() -> None:
    with pytest.raises(ConfigError, match="put 1 where a pixel is constant"):
        Normalise(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    with pytest.raises(ConfigError, match="must agree"):
        Normalise(torch.zeros(1, 1, 1), torch.ones(2, 1, 1))


def test_crop_in_literal_numbers() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    crop = PadCropFlip(padding=1)
    expected = {
        (1, 1, 0): [[1.0, 2.0], [3.0, 4.0]],
        (1, 1, 1): [[2.0, 1.0], [4.0, 3.0]],
        (0, 0, 0): [[0.0, 0.0], [0.0, 1.0]],
        (2, 1, 0): [[3.0, 4.0], [0.0, 0.0]],
        (2, 2, 1): [[0.0, 4.0], [0.0, 0.0]],
    }
    for (row, column, flip), pixels in expected.items():
        assert crop(image, np.array([key(row, column, flip, 3)]))[0, 0].tolist() == pixels


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**30),
    batch=st.integers(0, 9),
    channels=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    padding=st.integers(0, 5),
)
def test_crop_equals_a_loop_over_the_images(
    seed: int, batch: int, channels: int, height: int, width: int, padding: int
) -> None:
    x = torch.arange(1.0, batch * channels * height * width + 1).reshape(batch, channels, height, width)
    keys = address(seed, "augment", np.arange(batch))
    out = PadCropFlip(padding)(x, keys)
    assert out.shape == x.shape
    if batch:
        assert torch.equal(out, one_by_one(x, keys, padding))


def test_an_image_depends_on_its_own_key_only() -> None:
    x = torch.randn(6, 3, 8, 8)
    keys = address(1, "augment", np.arange(6))
    crop, order = PadCropFlip(), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(crop(x[order], keys[order.numpy()]), crop(x, keys)[order])
    stacked = crop(x.reshape(2, 3, 3, 8, 8), keys.reshape(2, 3))
    assert torch.equal(stacked.reshape(x.shape), crop(x, keys))
    assert torch.equal(crop(x, torch.from_numpy(keys.view(np.int64))), crop(x, keys))


def test_windows_and_flips_are_uniform() -> None:
    keys = address(0, "augment", np.arange(20_000))
    ramp = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5).expand(20_000, 1, 5, 5)
    centre = PadCropFlip(2)(ramp, keys)[:, 0, 2, 2].long()
    counts = torch.bincount(centre, minlength=26)[1:].double()
    assert (counts / 20_000 - 1 / 25).abs().max() < 0.006


def test_crop_says_what_is_wrong() -> None:
    with pytest.raises(DataError, match="give one per image"):
        PadCropFlip()(torch.zeros(2, 1, 4, 4), address(0, "augment", np.arange(3)))
    with pytest.raises(ConfigError, match="padding is -1"):
        PadCropFlip(-1)
