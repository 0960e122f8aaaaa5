"""The hashed requirements are the constraints, every one with a hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    """Return name to version; names are spelled in many ways, and the build of torch has a suffix."""
    found = _PIN.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version.partition("+")[0] for name, version in found}


@pytest.mark.parametrize(("constraints", "hashed"), [("constraints", "ci"), ("constraints-flower", "flower")])
def test_what_is_hashed_is_what_is_pinned(constraints: str, hashed: str) -> None:
    path = ROOT / "requirements" / f"{hashed}.txt"
    assert pins(path) == pins(ROOT / f"{constraints}.txt"), "run `make hashes`"
    entries = re.split(r"\n(?=[A-Za-z])", path.read_text(encoding="utf-8"))[1:]
    assert len(entries) == len(pins(path))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("lines", ["a==1 \\\n    --hash=sha256:0\nB_c==2+cpu\n"])
def test_pins_are_read(lines: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(lines, encoding="utf-8")
    assert pins(tmp_path / "x.txt") == {"a": "1", "b-c": "2"}
