"""A real deployment as a user starts it: without OMP_NUM_THREADS, which the other tests set. Slow; needs ``flower``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from tests.flower.live import Live, assert_same_folders, small
from tests.flower.test_deployment import in_loop

pytestmark = pytest.mark.slow
SIZES = ("partition.clients=2", "local_steps=6", "strategy.base_interval=2", "strategy.increase_factor=2")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two nodes with torch's own number of threads, and this process with two."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        torch.set_num_threads(2)
        with Live(tmp_path_factory.mktemp("live"), nodes=2) as started:
            yield started
        torch.set_num_threads(threads)


@pytest.mark.thorough
def test_default_threads_give_the_bits_of_the_loop_engine(live: Live, tmp_path: Path) -> None:
    assert_same_folders(live.finish(live.submit(small(*SIZES), "threads")), in_loop(small(*SIZES), tmp_path))
