"""The codecs with a context, and small values for them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlama.choices.codecs import (
    QSGD,
    Address,
    BFloat16,
    Chain,
    Codec,
    CodecState,
    CohortContext,
    Differences,
    Directions,
    EightBitRows,
    Float16,
    PowerSGD,
    RandomK,
    Sign,
    TopK,
)
from fedlama.core.layers import TensorSpec

WITH_FEEDBACK: list[Codec] = [
    *(Differences(bits) for bits in (8, 4, 2, 1)),
    TopK(0.1),
    RandomK(0.1),
    Sign(),
    PowerSGD(1),
    Chain((TopK(0.2), Differences(4))),
    Chain(({"name": "random-k", "share": 0.3}, {"name": "qsgd", "bits": 8})),
    Directions(Sign(), Differences(2)),
]
WITHOUT: list[Codec] = [
    Differences(4, feedback=False),
    Differences(8, feedback=False),
    EightBitRows(),
    QSGD(4),
    QSGD(8, "norm", down=True),
    RandomK(0.2, feedback=False, down=False),
    BFloat16(down=True),
    Float16(down=True),
    Directions(QSGD(4), Float16()),
]
CODECS = [*WITH_FEEDBACK, *WITHOUT]

SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 2, 2), (700, 3), (0,)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64]


def made(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random values of any dtype."""
    draw = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(shape, generator=draw, dtype=torch.float64)
    if dtype.is_complex:
        return torch.complex(values, torch.randn(shape, generator=draw, dtype=torch.float64)).to(dtype)
    return values.to(dtype)


def spec_of(value: Tensor) -> TensorSpec:
    """Describe a parameter."""
    return TensorSpec("w", tuple(value.shape), value.dtype, trainable=True)


def context(codec: Codec, reference: Tensor, clients: tuple[int, ...], rounds: int = 2) -> CohortContext:
    """A cohort in its first upload."""
    first = codec.init(spec_of(reference))
    state: CodecState = {name: torch.stack([value] * len(clients)) for name, value in first.items()}
    return CohortContext(reference, state, Address(7, "up", rounds, clients[0], "w"), clients)


def sent(codec: Codec, value: Tensor) -> Tensor:
    """What arrives of one tensor, as a difference from zero."""
    return codec.transmit(value.unsqueeze(0))[0]
