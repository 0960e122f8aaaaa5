"""One codec for uploads and another one for downloads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecContext, CodecState, CohortContext
from fedlama.choices.codecs.float32 import codec_for
from fedlama.choices.codecs.nested import codec_from
from fedlama.core.layers import Layers, TensorSpec
from fedlama.core.registry import register
from fedlama.errors import ConfigError


@register("codec")
@dataclass(frozen=True)
class Directions(Codec):
    """Send uploads by one codec and downloads by another one, whatever downloads belong to the first.

    Args:
        up: The codec of uploads, or a table of its settings.
        down: The codec of downloads likewise. Without a context it must be idempotent; see
            :attr:`fedlama.choices.codecs.base.Codec.download`.

    Raises:
        ConfigError: There is no such codec, or it does not take these settings.

    Example:
        >>> Directions({"name": "differences", "bits": 2}, {"name": "float16"}).download
        Float16(down=False)
    """

    name: ClassVar[str] = "directions"
    up: Any
    down: Any

    def __post_init__(self) -> None:
        for direction in ("up", "down"):
            object.__setattr__(self, direction, codec_from(f"codec.{direction}", getattr(self, direction)))
        if getattr(self.down, "leaves_out", False):
            raise ConfigError(
                f"Directions: down is {self.down.name!r}, which leaves numbers out, but clients need all of a "
                "download; use such as 'float32'"
            )
        if getattr(self.down, "shares_state", False):
            raise ConfigError(
                f"Directions: down is {self.down.name!r}, whose receiver keeps a state for each sender, which is made "
                "for uploads; use such as 'float32'"
            )

    @property
    def needs_context(self) -> bool:
        """As the codec of uploads."""
        return self._up.needs_context

    @property
    def uses_reference(self) -> bool:
        """As the codec of uploads."""
        return self._up.uses_reference

    @property
    def download(self) -> Codec | None:
        """The codec of downloads."""
        down: Codec = self.down
        return down

    @property
    def leaves_out(self) -> bool:
        """As the codec of uploads."""
        return bool(getattr(self._up, "leaves_out", False))

    def for_layers(self, layers: Layers) -> Codec:
        """Return the same codecs, with what they must know of the layers."""
        return replace(self, up=codec_for(self.up, layers), down=codec_for(self.down, layers))

    @property
    def _up(self) -> Codec:
        up: Codec = self.up
        return up

    def init(self, spec: TensorSpec) -> CodecState:
        """Return the first state of an upload."""
        return self._up.init(spec)

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the length of an upload."""
        return self._up.payload_bytes(spec)

    def encode(self, tensor: Tensor) -> bytes:
        """Write an upload."""
        return self._up.encode(tensor)

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read an upload."""
        return self._up.decode(data, spec)

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return what arrives of uploads."""
        return self._up.transmit(stacked)

    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write an upload."""
        return self._up.encode_with(tensor, context)

    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Read an upload."""
        return self._up.decode_with(data, spec, context)

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Return what arrives of uploads, and the new states."""
        return self._up.transmit_with(stacked, context)
