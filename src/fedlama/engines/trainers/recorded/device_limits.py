"""How cuDNN chooses its kernels while steps are computed and recorded, and how many clients fit a device's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlama.engines.trainers.gradients import Precision

_MARGIN = 0.2
"""Fraction of the free memory to leave alone."""


def what_fits(free: int, activations: int, per_slot: int, lanes: int, slots: int) -> tuple[int, int]:
    """Return how many lanes and slots fit the memory, at least one of each.

    Args:
        free: Bytes that can still be allocated.
        activations: Bytes that a step holds at its peak; each lane has its own.
        per_slot: Bytes of a slot.
        lanes: Lanes that are wanted, at most.
        slots: Slots that are wanted, at most.

    >>> what_fits(free=1000, activations=50, per_slot=10, lanes=16, slots=256)
    (8, 40)
    """
    room = int((1 - _MARGIN) * free)
    lanes = max(min(lanes, room // 2 // max(activations, 1)), 1)
    return lanes, max(min(slots, (room - lanes * activations) // max(per_slot, 1)), 1)


@contextmanager
def kernels(precision: Precision, autotune: bool) -> Iterator[None]:
    """Set how cuDNN chooses its kernels: in float32 those whose results repeat to the last bit.

    Args:
        precision: The numbers that the model computes in.
        autotune: Whether it tries which are fastest, if not in float32.
    """
    settings = torch.backends.cudnn
    before = settings.deterministic, settings.benchmark
    exact = precision == "float32"
    settings.deterministic, settings.benchmark = before[0] or exact, autotune and not exact
    try:
        yield
    finally:
        settings.deterministic, settings.benchmark = before
