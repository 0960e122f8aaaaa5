"""No compression: every tensor is sent in its own dtype (float32 for usual models), little-endian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec
from fedlama.core.layers import Layers, TensorSpec
from fedlama.core.registry import register
from fedlama.errors import DataError


@register("codec")
@dataclass(frozen=True)
class Float32(Codec):
    """Send every tensor as it is.

    Example:
        >>> spec = TensorSpec("weight", (2, 3), torch.float32, trainable=True)
        >>> Float32().payload_bytes(spec)
        24
    """

    name: ClassVar[str] = "float32"

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the number of elements times the width of the dtype."""
        return spec.size * spec.dtype.itemsize

    def encode(self, tensor: Tensor) -> bytes:
        """Write the elements row by row."""
        return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read the elements back.

        Raises:
            DataError: The length is not that of the tensor.
        """
        check_length(data, spec, self.payload_bytes(spec))
        if not data:  # which PyTorch does not read
            return torch.zeros(spec.shape, dtype=spec.dtype)
        return torch.frombuffer(bytearray(data), dtype=spec.dtype).reshape(spec.shape)

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return the tensors as they are: nothing is lost."""
        return stacked


_UNCOMPRESSED = Float32()


def changes_nothing(codec: Codec) -> bool:
    """Return whether all tensors arrive as they are, so that a caller need not look at each of them.

    Args:
        codec: A codec of uploads or of downloads.
    """
    return codec == _UNCOMPRESSED


def download_codec(codec: Codec) -> Codec:
    """Return the codec of downloads that belongs to a federation's codec.

    Args:
        codec: The codec of the federation.
    """
    return codec.download or _UNCOMPRESSED


def full_codec(codec: Codec) -> Codec:
    """Return the codec of a download to a client that is not in sync, and so lacks the reference of differences.

    Args:
        codec: The codec of the federation.
    """
    down = download_codec(codec)
    return _UNCOMPRESSED if down.needs_context else down


def codec_for(codec: Codec, layers: Layers) -> Codec:
    """Return a codec that knows the layers it is used for, where it asks for them with `for_layers`.

    Args:
        codec: The codec as it was chosen; one of the user's own may not know of layers.
        layers: The layers that are sent, in the model's order.
    """
    bind: Callable[[Layers], Codec] | None = getattr(codec, "for_layers", None)
    return codec if bind is None else bind(layers)


def codec_of(spec: TensorSpec, codec: Codec) -> Codec:
    """Return the codec that a tensor is sent with: a parameter's is the chosen one, statistics are sent as they are.

    Statistics such as a BatchNorm's variance are few, and their range is not that of weights: 70,000 is a usual
    variance of inputs that are not normalised, and beyond float16.

    Args:
        spec: The tensor.
        codec: The codec of the federation.
    """
    return codec if spec.trainable else _UNCOMPRESSED


def check_length(data: bytes, spec: TensorSpec, expected: int) -> None:
    """Refuse a payload of the wrong length.

    Args:
        data: The payload.
        spec: The tensor that it should hold, for the message.
        expected: The right length, in bytes.

    Raises:
        DataError: The payload is not `expected` bytes long.
    """
    if len(data) != expected:
        raise DataError(
            f"tensor {spec.name!r} of shape {spec.shape} takes {expected} bytes, {len(data)} were given; "
            "the sender's model or codec differs from ours"
        )
