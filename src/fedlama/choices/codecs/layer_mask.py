"""FLAYER's upload mask: of early layers a few numbers are sent, those that changed most, and of late layers all.

Chen, Yang, Ren, Li and Wang, FLAYER, IJCAI 2025 (arXiv 2412.07062), equations 5 to 9, with the exact counts of the
authors' program. Tensor j of n, in the order of the model's parameters, leaves out the share

    ratio_j = 1 - clip(j / n, 0.1, 0.9), and 0 for the last two tensors

of its numbers, those with the smallest |x - r|, r the value that the client received last:

==========  ==========================================================================================================
dimensions  what is left out
==========  ==========================================================================================================
3 or more   of every slice of a convolution kernel (one output and one input channel, with k numbers) the q smallest
            changes; q is ``k * ratio``, rounded half to even, but 1 if ratio < 1 / k, and k - 1 if ratio > (k - 1) / k
1           the same, with the whole tensor as the slice
0 or 2      nothing
==========  ==========================================================================================================

A payload is a map of one bit for each number, the first one in the lowest bit of the first byte, and the numbers that
are sent; tensors that are sent whole have no map. Numbers that were not sent arrive as NaN, and only an aggregator that
counts elements can be used with it, such as :class:`~fedlama.choices.aggregators.element_mean.ElementMean`. A client's
own NaN arrives as an infinity, so that a divergence is still seen.

Deviations: the program sends zeros in place of what is left out, so a weight that is 0 counts as not sent. It counts
the change of a head from the client's blended model; here it is counted from the value that was received, which is
another number for the one-dimensional tensors of such a head only. A kernel of size 1 x 1 is masked completely by the
program, so it never leaves a client; here it is sent, unless `one_by_one` says otherwise. n counts the tensors that are
sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecContext, CodecState, CohortContext, ContextCodec, spec_of
from fedlama.choices.codecs.difference import is_coded
from fedlama.choices.codecs.float32 import Float32, check_length
from fedlama.choices.codecs.packing import pack_codes, unpack_codes
from fedlama.core.layers import Layers, TensorSpec
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse
from fedlama.errors import DataError

_RAW = Float32()
_FIRST = 0.9
"""The ratio of the first tensor, which a codec takes for all tensors while it knows no labelling."""


@register("codec")
@dataclass(frozen=True)
class LayerMask(ContextCodec):
    """Send the numbers that changed most, fewer of early layers.

    Args:
        one_by_one: Whether slices of a single number, such as kernels of size 1 x 1, are sent (``"send"``) or left out
            (``"mask"``), as in the authors' program.

    Raises:
        ConfigError: The value is unknown.

    Example:
        >>> kernel = torch.tensor([[[[[0.1, 3.0], [0.2, 0.3]]]]])  # one client, one slice of four numbers
        >>> LayerMask().transmit(kernel).flatten().tolist()  # ratio 0.9: three of four are left out
        [nan, 3.0, nan, nan]
    """

    name: ClassVar[str] = "layer-mask"
    one_by_one: Literal["send", "mask"] = "send"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "one_by_one", ("send", "mask")))

    @property
    def uses_reference(self) -> bool:
        """Whether changes are counted from a value that both sides hold; they are."""
        return True

    @property
    def leaves_out(self) -> bool:
        """Whether some numbers are not sent, and arrive as NaN; they are."""
        return True

    def for_layers(self, layers: Layers) -> Codec:
        """Return this codec with the ratios of a labelling.

        Args:
            layers: The layers that are sent, in the model's order.
        """
        names = [spec.name for layer in layers for spec in layer.tensors if spec.trainable]
        return _Placed(self.one_by_one, ratios_of(names))

    def ratio(self, spec: TensorSpec) -> float:
        """Return the share of a tensor's numbers that are left out."""
        return _FIRST

    def left_out(self, spec: TensorSpec) -> int:
        """Return how many numbers of each slice of a tensor are left out.

        Args:
            spec: The tensor.

        >>> LayerMask().left_out(TensorSpec("w", (32, 3, 5, 5), torch.float32, trainable=True))
        22
        """
        size, ratio = _slice_size(spec), self.ratio(spec)
        if not size or ratio == 0:
            return 0
        if size == 1:
            return 1 if self.one_by_one == "mask" else 0
        if ratio < 1 / size:
            return 1
        return size - 1 if ratio > (size - 1) / size else round(size * ratio)

    def kept(self, spec: TensorSpec) -> int:
        """Return how many numbers of a tensor are sent."""
        size = _slice_size(spec)
        return spec.size - (spec.size // size * self.left_out(spec) if size else 0)

    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of the map and of the numbers that are sent."""
        if not self.left_out(spec):
            return _RAW.payload_bytes(spec)
        return _map_bytes(spec) + self.kept(spec) * spec.dtype.itemsize

    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write the map and the numbers."""
        cohort = CohortContext(context.reference, {}, context.address, (context.address.client,))
        received, sent = self._masked(tensor.unsqueeze(0), cohort)
        if sent is None:
            return _RAW.encode(received[0]), {}
        bits = pack_codes(sent.reshape(1, -1).to(torch.uint8), 1)[0]
        return bits.cpu().numpy().tobytes() + _RAW.encode(received[0].reshape(-1)[sent.reshape(-1)]), {}

    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Read them; what was not sent is NaN.

        Raises:
            DataError: The length is not that of the tensor, or the map has another number of ones.
        """
        check_length(data, spec, self.payload_bytes(spec))
        if not self.left_out(spec):
            return _without_nan(_RAW.decode(data, spec))
        width = _map_bytes(spec)
        packed = torch.frombuffer(bytearray(data[:width]), dtype=torch.uint8).unsqueeze(0)
        sent = unpack_codes(packed, 1, spec.size)[0].bool()
        if int(sent.sum()) != self.kept(spec):
            raise DataError(
                f"the map of tensor {spec.name!r} has {int(sent.sum())} numbers, expected {self.kept(spec)}; the "
                "sender's codec differs from ours"
            )
        value = torch.full((spec.size,), math.nan, dtype=spec.dtype)
        numbers = TensorSpec(spec.name, (self.kept(spec),), spec.dtype, trainable=True)
        value[sent] = _without_nan(_RAW.decode(data[width:], numbers))
        return value.reshape(spec.shape)

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Return the tensors with NaN in place of what is left out."""
        return self._masked(stacked, context)[0], {}

    def _masked(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, Tensor | None]:
        """Return what arrives of (clients, ...), and which numbers are sent; None for all of them."""
        spec = spec_of(stacked[0])
        spec = TensorSpec(context.address.tensor, spec.shape, spec.dtype, trainable=True)
        count = self.left_out(spec)
        received = _without_nan(stacked)
        if not count:
            return received, None
        change = (stacked if context.reference is None else stacked - context.reference).abs()
        slices = change.reshape(len(stacked), -1, _slice_size(spec))  # (clients, slices, numbers of a slice)
        smallest = torch.argsort(slices, dim=2, stable=True)[:, :, :count]
        sent = torch.ones_like(slices, dtype=torch.bool).scatter_(2, smallest, False).reshape(stacked.shape)
        return torch.where(sent, received, torch.full((), math.nan, dtype=stacked.dtype)), sent


@dataclass(frozen=True)
class _Placed(LayerMask):
    """The codec of a labelling; its `ratios` are those of the tensors by name."""

    ratios: Mapping[str, float] = field(default_factory=dict)

    def ratio(self, spec: TensorSpec) -> float:
        """Return the share of a tensor's numbers that are left out."""
        return self.ratios.get(spec.name, _FIRST)


def ratios_of(names: list[str]) -> dict[str, float]:
    """Return the share of the numbers that each tensor leaves out.

    Args:
        names: The tensors' names, in the order of the model's parameters.

    >>> ratios_of(["a", "b", "c", "d"])
    {'a': 0.9, 'b': 0.75, 'c': 0.0, 'd': 0.0}
    """
    ratios = {name: 1 - min(max(j / len(names), 0.1), 0.9) for j, name in enumerate(names)}
    return ratios | dict.fromkeys(names[-2:], 0.0)


def _slice_size(spec: TensorSpec) -> int:
    """Return how many numbers a slice of a tensor has; 0 for a tensor that is sent whole."""
    if not is_coded(spec) or len(spec.shape) in (0, 2):
        return 0
    return spec.shape[0] if len(spec.shape) == 1 else math.prod(spec.shape[2:])


def _map_bytes(spec: TensorSpec) -> int:
    return -(-spec.size // 8)


def _without_nan(value: Tensor) -> Tensor:
    """Return a tensor with infinities in place of NaN, which means something else here."""
    if not (value.is_floating_point() or value.is_complex()):
        return value
    return torch.where(torch.isnan(value), torch.full((), math.inf, dtype=value.dtype), value)
