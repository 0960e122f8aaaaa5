"""The process's global random generators, of torch, NumPy and Python: used by one thread at a time, and put back after.

Code of the user's own, such as a random crop in a data set, draws from them. Inside :func:`addressed_generators` it
draws what its address gives it, and nothing outside notices.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

global_generator = threading.RLock()
"""Held by a thread as long as it needs torch's global generator in a state of its own."""


def seed_torch(seed: int) -> None:
    """Seed torch's global generators, as `torch.manual_seed` does.

    Where there is no accelerator, `torch.manual_seed` keeps a stack trace of every call for the day that CUDA starts.

    Args:
        seed: 63 bits, as :func:`fedlama.core.randomness.seed_of` gives them.

    >>> seed_torch(7)
    >>> first = torch.rand(1)
    >>> _ = torch.manual_seed(7)
    >>> first == torch.rand(1)
    tensor([True])
    """
    if torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def addressed_generators(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and restore them afterwards; other threads wait.

    Args:
        seed: 63 bits, as :func:`fedlama.core.randomness.seed_of` gives them.

    >>> with addressed_generators(7):
    ...     first = torch.rand(1), np.random.rand(), random.random()
    >>> with addressed_generators(7):
    ...     first == (torch.rand(1), np.random.rand(), random.random())
    True
    """
    with global_generator, torch.random.fork_rng(devices=[]):
        usual, usual_numpy = random.getstate(), np.random.get_state()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        try:
            yield
        finally:
            random.setstate(usual)
            np.random.set_state(usual_numpy)
