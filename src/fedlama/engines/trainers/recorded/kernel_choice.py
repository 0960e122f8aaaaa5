"""How cuDNN chooses its kernels while steps are computed and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlama.engines.trainers.gradients import Precision


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
