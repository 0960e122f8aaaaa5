"""One thread for models this small, and one comparison that several tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.call import SMALL, Called, fedlama


@dataclass(frozen=True)
class Compared:
    """A finished `fedlama compare --json` and the folder of its runs."""

    called: Called
    out: Path


@pytest.fixture(scope="package")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    out = tmp_path_factory.mktemp("compared")
    return Compared(fedlama("compare", "digits", *SMALL, "--json", "--out", out), out)
