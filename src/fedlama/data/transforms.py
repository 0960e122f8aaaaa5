"""Transforms of whole batches: standardise pixels, and augment images by random crops and flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlama.core.validation import normalise_numbers
from fedlama.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Normalise:
    """Subtract a mean and divide by a standard deviation, after bringing uint8 pixels to [0, 1].

    Args:
        mean: float32, (C, 1, 1) per channel or (C, H, W) per pixel, on the scale [0, 1].
        std: As ``mean``; none of its values may be 0.

    Use `per_channel` or `per_pixel` to compute both from the training images.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        """Refuse deviations that cannot be divided by."""
        if self.mean.shape != self.std.shape:
            raise ConfigError(
                f"mean has shape {tuple(self.mean.shape)} but std {tuple(self.std.shape)}; they must agree"
            )
        if not bool((self.std > 0).all()):
            raise ConfigError("std has values that are 0, negative or NaN; put 1 where a pixel is constant")

    @classmethod
    def per_channel(cls, images: Tensor) -> Normalise:
        """Compute mean and deviation of each channel.

        Args:
            images: uint8 or float (N, C, H, W), the training images.

        Returns:
            The transform, with statistics of shape (C, 1, 1).
        """
        return cls._fit(images, (0, 2, 3))

    @classmethod
    def per_pixel(cls, images: Tensor) -> Normalise:
        """Compute mean and deviation of each pixel of each channel, as the authors of FedLAMA do.

        Args:
            images: uint8 or float (N, C, H, W), the training images.

        Returns:
            The transform, with statistics of shape (C, H, W); pixels that never change get deviation 1.
        """
        return cls._fit(images, (0,))

    @classmethod
    def _fit(cls, images: Tensor, over: tuple[int, ...]) -> Normalise:
        # Summed in float64 in slices: exact enough for any N, without a float64 copy of the whole data set.
        total, squares = torch.zeros(()), torch.zeros(())
        for start in range(0, len(images), 4096):
            pixels = _to_unit(images[start : start + 4096], torch.float64)
            total = total + pixels.sum(over, keepdim=True)
            squares = squares + pixels.square().sum(over, keepdim=True)
        count = images.numel() / total.numel()
        mean = total[0] / count
        std = (squares[0] / count - mean.square()).clamp_min(0).sqrt()
        # Rounding leaves about 1e-8 where the deviation is truly 0; real 8-bit data is far above 1e-6.
        std = torch.where(std < 1e-6, torch.ones_like(std), std)
        return cls(mean.float(), std.float())

    def to(self, device: torch.device | str) -> Normalise:
        """Return a copy whose statistics are on a device, which saves a copy at each call."""
        moved = object.__new__(Normalise)  # not checked again, since a check would wait for the device
        moved.__dict__.update(mean=self.mean.to(device), std=self.std.to(device))
        return moved

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise images.

        Args:
            x: uint8 in 0..255, or float in [0, 1]; (..., C, H, W).

        Returns:
            float32 of the same shape.

        >>> half = torch.full((1, 1, 1), 0.5)
        >>> Normalise(half, half)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
        [[[[-1.0, 1.0]]]]
        """
        return (_to_unit(x, torch.float32) - self.mean.to(x.device)) / self.std.to(x.device)


def _to_unit(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)


@dataclass(frozen=True)
class PadCropFlip:
    """Pad with zeros, cut out a random window of the original size, and mirror half of the images.

    Args:
        padding: Pixels added on each side; the window moves by -padding..padding in both directions.

    Attributes:
        takes_tensors: Keys may be tensors; see :data:`fedlama.data.clients.Augment`.

    Apply it after `Normalise`, where zero is the mean colour, as the authors of FedLAMA do. All randomness comes from
    the keys, so that engines which visit the samples in another order, or on another device, make the same images.

    Raises:
        ConfigError: If the padding is negative or above 1,000.
    """

    takes_tensors: ClassVar[bool] = True
    padding: int = 4

    def __post_init__(self) -> None:
        """Refuse a padding that is out of range."""
        normalise_numbers(self)
        if not 0 <= self.padding <= 1000:
            raise ConfigError(f"padding is {self.padding}, expected 0 to 1000 pixels; use such a number")

    def __call__(self, x: Tensor, keys: NDArray[np.uint64] | Tensor) -> Tensor:
        """Augment a batch.

        Args:
            x: float (..., C, H, W).
            keys: 64 random bits per image, of shape ``x.shape[:-3]``: uint64 as NumPy array (from
                ``fedlama.core.randomness.address``) or its int64 view as tensor. Bits 0..15 set the row, 16..31 the
                column, bit 32 the flip.

        Returns:
            Tensor like ``x``.

        Raises:
            DataError: If there is not one key per image.
        """
        bits = _as_int64(keys, x.device)
        if bits.shape != x.shape[:-3]:
            raise DataError(f"keys have shape {tuple(bits.shape)} for images {tuple(x.shape)}; give one per image")
        lead, (channels, height, width) = x.shape[:-3], x.shape[-3:]
        span = 2 * self.padding + 1
        bits = bits.reshape(-1, 1)
        # The high part of a 16-bit product is uniform to within 2^-16 * span and needs no division.
        top = ((bits & 0xFFFF) * span) >> 16
        left = (((bits >> 16) & 0xFFFF) * span) >> 16
        flip = ((bits >> 32) & 1).bool()
        across = torch.arange(width, device=x.device)
        rows = top + torch.arange(height, device=x.device)
        columns = left + torch.where(flip, across.flip(0), across)
        padded = functional.pad(x.reshape(-1, channels, height, width), (self.padding,) * 4).flatten(2)
        pixel = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).flatten(1)
        cut = padded.gather(2, pixel[:, None, :].expand(-1, channels, -1))  # (images, channels, height * width)
        return cut.reshape(*lead, channels, height, width)


def _as_int64(keys: NDArray[np.uint64] | Tensor, device: torch.device) -> Tensor:
    """Reinterpret keys as int64: PyTorch has no shifts for uint64, and masks make the sign bit harmless."""
    if isinstance(keys, Tensor):
        return keys.view(torch.int64).to(device)
    return torch.from_numpy(np.ascontiguousarray(keys).view(np.int64)).to(device)
