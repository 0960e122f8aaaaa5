"""Settings of all tests.

Torch keeps to one thread here and in the processes that tests start: the models are so small that threads would only
wait for each other, for minutes on a busy machine. Hypothesis draws the same examples in every run and minds no clock,
because a busy machine is not a failure. The tests on a GPU run without Hypothesis, too.

Files with slow tests come first, so that two processes, which take a file at a time, end together. The very first one
compiles all kernels; those after it need none, so that nobody compiles the same ones beside it, for minutes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch

from tests.selection import mark_the_rest

try:
    from hypothesis import settings
except ImportError:  # on a machine with PyTorch and pytest alone
    pass
else:
    settings.register_profile("fedlama", deadline=None, derandomize=True)
    settings.load_profile("fedlama")

FIRST = ("test_checked", "test_kill_and_damage", "test_torch_compiled", "test_site")
"""Names of files: the one that compiles all kernels, and slow ones that run without kernels."""

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _pictures() -> Iterator[None]:
    """Draw no picture of a run; a file of tests that looks at pictures has a fixture of this name."""
    try:
        from tests.pictures import not_drawn
    except ImportError:  # on a machine with PyTorch and pytest alone
        yield
        return
    with not_drawn():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which takes a fifth of the time: what is collected is kept."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before `-m` reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first; the Makefile keeps pytest-xdist from sorting files by their number of tests."""
    mark_the_rest(items)
    slow = {item.path for item in items for mark in ("slow", "thorough") if item.get_closest_marker(mark)}

    def rank(item: pytest.Item) -> int:
        if item.path.stem in FIRST:
            return FIRST.index(item.path.stem)
        return len(FIRST) + (item.path not in slow)

    items.sort(key=rank)
