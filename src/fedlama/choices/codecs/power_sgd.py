"""Differences of low rank, found by one step of the power method that starts from the last one: PowerSGD.

Source: Vogels, Karimireddy and Jaggi, "PowerSGD" (NeurIPS 2019), algorithm 1. Deviation: there all workers find one
common matrix by two all-reduces; here every sender finds its own, since a server receives single uploads. All sums have
a fixed order, see :mod:`fedlama.choices.codecs.fixed_order`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext, spec_of
from fedlama.choices.codecs.compiled import arrays_of, by_rows
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows, is_coded, real_spec
from fedlama.choices.codecs.fixed_order import orthonormal, times, transposed_times
from fedlama.choices.codecs.packing import from_bytes, to_bytes
from fedlama.core.layers import TensorSpec
from fedlama.core.randomness import generator
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.kernels import multiply_transposed, put_product, take_product

BASIS = "basis"


@register("codec")
@dataclass(frozen=True)
class PowerSGD(DifferenceCodec):
    """Send a matrix of m x n numbers as the product of m x rank and rank x n.

    The first dimension of a tensor counts as rows, all others together as columns. Tensors for which this saves
    nothing, such as biases, are sent as differences in float32.

    Args:
        rank: Columns of the two factors.
        feedback: Add what was left out to the next difference.
        down: Whether downloads are coded in the same way.

    Raises:
        ConfigError: The rank is not an integer of 1 or more.

    Example:
        >>> PowerSGD(rank=2).payload_bytes(TensorSpec("w", (100, 50), torch.float32, trainable=True))  # 4 * 2 * 150
        1200
    """

    name: ClassVar[str] = "power-sgd"
    rank: int = 2
    feedback: bool = True
    down: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "rank", minimum=1))

    def init(self, spec: TensorSpec) -> CodecState:
        """Return a residual of zero, and for matrices a basis that depends on the tensor's shape alone."""
        first = super().init(spec)
        real = real_spec(spec)
        if not (is_coded(spec) and self._is_factored(real)):
            return first
        columns = real.size // real.shape[0]
        drawn = generator(0, "power-sgd", real.shape[0], columns).standard_normal((columns, self.rank))
        return {**first, BASIS: torch.from_numpy(drawn).to(torch.float32)}

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute the differences and their products in compiled loops, where these are available and worth loading."""
        spec, bases = spec_of(stacked[0]), context.state.get(BASIS)
        if bases is None or not self.compiles(stacked, context):
            return super()._arriving(stacked, context)
        arrays = arrays_of(stacked, context.reference, context.state[RESIDUAL])
        height, width = _sides(spec)
        new = torch.empty(bases.shape)  # (clients, width, rank)

        def compute(row: int) -> None:
            received, change = arrays.received[row], arrays.left[row]
            product, basis = torch.empty(self.rank, height), bases[row].t().contiguous()  # (rank, width)
            take_product(
                change, product.numpy(), arrays.values[row], arrays.reference, arrays.residuals[row], basis.numpy()
            )
            left = orthonormal(product.t()[None])[0].t().contiguous()  # (rank, height)
            right = torch.empty(self.rank, width)
            multiply_transposed(right.numpy(), change, left.numpy())
            new[row] = _next_basis(right.t()[None], bases[row][None])[0]
            factors = left.numpy(), right.numpy()
            put_product(received, change, arrays.reference, factors, past_caches=arrays.past_caches)

        by_rows(compute, arrays, context)
        return arrays.arriving, {RESIDUAL: arrays.residual, BASIS: new}

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of both factors, or of all numbers."""
        return 4 * (self.rank * sum(_sides(spec)) if self._is_factored(spec) else spec.size)

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write both factors."""
        if not self._is_factored(rows.spec):
            return to_bytes(values), {}
        matrices = values.view(-1, *_sides(rows.spec))  # (rows, height, width)
        bases = rows.state.get(BASIS)  # (rows, width, rank)
        if bases is None:
            bases = self.init(rows.spec)[BASIS].to(values.device).expand(len(values), -1, -1)
        left = orthonormal(times(matrices, bases))  # (rows, height, rank)
        right = transposed_times(matrices, left)  # (rows, width, rank)
        packed = torch.cat([left.flatten(1), right.flatten(1)], 1)
        return to_bytes(packed), {BASIS: _next_basis(right, bases)}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Multiply the factors one column after another, which gives the same bits on every machine."""
        numbers = from_bytes(packed, torch.float32)
        if not self._is_factored(rows.spec):
            return numbers
        height, width = _sides(rows.spec)
        left = numbers[:, : self.rank * height].view(-1, height, 1, self.rank)
        right = numbers[:, self.rank * height :].view(-1, 1, width, self.rank)
        product = left[..., 0] * right[..., 0]  # (rows, height, width)
        for column in range(1, self.rank):
            product = product + left[..., column] * right[..., column]
        return product.view(len(packed), -1)

    def _is_factored(self, spec: TensorSpec) -> bool:
        return len(spec.shape) > 1 and spec.size > 0 and self.rank * sum(_sides(spec)) < spec.size


def _next_basis(right: Tensor, before: Tensor) -> Tensor:
    """Return the bases of the next step, (rows, width, rank): the last one where it would be zero, and stay it."""
    return torch.where(right.flatten(1).any(1)[:, None, None], right, before)


def _sides(spec: TensorSpec) -> tuple[int, int]:
    """Return the height and the width of a tensor as a matrix."""
    return spec.shape[0], spec.size // spec.shape[0]
