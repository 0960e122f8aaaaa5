"""One thread for models this small, and one comparison that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.cli.call import SMALL, Called, fedlama


@dataclass(frozen=True)
class Compared:
    """A finished `fedlama compare --json` and where its folders lie."""

    called: Called
    out: Path


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out = tmp_path_factory.mktemp("compared")
    return Compared(fedlama("compare", "digits", *SMALL, "--json", "--out", out), out)
