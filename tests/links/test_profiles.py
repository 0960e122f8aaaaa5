"""Units and profiles: bits are not bytes, 1000 is not 1024, and mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama import ConfigError
from fedlama.analysis.links import PROFILES, parse_link, parse_links, parse_rate, parse_seconds, show_rate
from fedlama.analysis.links import profiles as module


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1 bit/s", 1.0),
        ("8kbit/s", 8000.0),
        ("1 kB/s", 8000.0),
        ("1KiB/s", 8192.0),
        ("2.5 MB/s", 20e6),
        ("1 MiB/s", 8.0 * 1024 * 1024),
        ("10Gbit/s", 10e9),
    ],
)
def test_rates(text: str, bits: float) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["5", "5 Mb", "5 mbps", "5 Kbit/s", "-1 Mbit/s", "nan bit/s", "1e999 bit/s", "", "x"])
def test_rates_without_a_clear_unit_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a rate"):
        parse_rate(text)


def test_times() -> None:
    assert [parse_seconds(text) for text in ("30ms", "250 us", "2 min", "1.5s")] == [0.03, 0.00025, 120.0, 1.5]
    with pytest.raises(ConfigError, match="not a time"):
        parse_seconds("30")


def test_profiles_are_documented_as_they_are() -> None:
    assert list(PROFILES) == ["data-centre", "fibre", "home-dsl", "4g", "lora-like"]
    for name, link in PROFILES.items():
        (row,) = [line for line in (module.__doc__ or "").splitlines() if line.startswith(name + " ")]
        assert isinstance(link.up, float)
        assert isinstance(link.down, float)
        assert show_rate(link.up) in row
        assert show_rate(link.down) in row


def test_a_profile_with_changes() -> None:
    link = parse_link("4g,up=5Mbit/s,compute=80ms,straggler-share=0.1,straggler_factor=4")
    assert (link.up, link.down, link.compute) == (5e6, 30e6, 0.08)
    assert (link.straggler_share, link.straggler_factor) == (0.1, 4.0)


def test_a_link_of_ones_own() -> None:
    link = parse_link("up=1MB/s, down=2MB/s")
    assert (link.up, link.down, link.latency, link.compute) == (8e6, 16e6, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5g", "there is no link '5g'; known are: 4g, data-centre"),
        ("4g,upp=1MB/s", "unknown key 'upp'; did you mean 'up'"),
        ("4g,up=1", "'1' is not a rate"),
        ("4g,fast", "'fast' in the link '4g,fast' is not a setting"),
        ("up=1MB/s", "lacks down"),
        ("4g,straggler_share=2", "expected 0 to 1"),
        ("", "lacks up"),
    ],
)
def test_mistakes_in_a_link(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_link(text)


def test_a_file_of_links(tmp_path: Path) -> None:
    file = tmp_path / "links.toml"
    file.write_text(
        '[village]\nbase = "home-dsl"\nup = "2 Mbit/s"\nnote = "far from the exchange"\n'
        '[three]\nup = ["1 MB/s", "2 MB/s", "4 MB/s"]\ndown = "8 Mbit/s"\nrate_spread = 0.25\n',
        encoding="utf-8",
    )
    village, three = parse_links([], file)
    assert (village.up, village.down, village.note) == (2e6, 50e6, "far from the exchange")
    assert (three.up, three.rate_spread) == ((8e6, 16e6, 32e6), 0.25)
    assert parse_links(["fibre"], file)[0] == PROFILES["fibre"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("village = 3", "expected a table"),
        ("[v]\nbase = 'dsl'", "there is no base 'dsl'"),
        ("[v]\nup = '1 MB/s'\ndown = '1 MB/s'\nrate_spread = ['1']", "is a list, expected one number"),
        ("[v]\nup = true\ndown = '1 MB/s'", "'True' is not a rate"),
        ("[v", "cannot be read as TOML"),
    ],
)
def test_mistakes_in_a_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "links.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        parse_links([], tmp_path / "links.toml")


def test_without_a_word_all_profiles_are_meant() -> None:
    assert parse_links([]) == list(PROFILES.values())
