"""Files of links: TOML with one table per link."""

from __future__ import annotations

from random import Random

from fedlama.analysis.links import parse_links
from tests.fuzz.damage import damage_text
from tests.fuzz.folder import scratch
from tests.fuzz.harness import Target
from tests.fuzz.targets.words import TOML

_VALID = b"""
[office]
up = "40 Mbit/s"
down = ["1 Gbit/s", "100 kbit/s"]
latency = "10ms"
compute = ["20ms", "1 s"]
[farm]
base = "4g"
rate_spread = 0.9
note = "rain"
"""


def _make(draw: Random) -> bytes:
    return damage_text(draw, _VALID, [*TOML[:60], b"Mbit/s", b"ms", b"kB/s", b"up", b"down", b"compute", b"rate_seed"])


def _read(data: bytes) -> None:
    path = scratch("links_file") / "links.toml"
    path.write_bytes(data)
    parse_links([], path)


TARGET = Target("links-file", _make, _read)
