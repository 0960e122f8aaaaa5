"""Settings of the core's tests.

Torch keeps to one thread, because the models are so small that threads only wait for each other. Hypothesis draws the
same examples in every run and minds no clock, because a busy machine is no failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("fedlama", deadline=None, derandomize=True)
settings.load_profile("fedlama")


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
