"""Time on a link: how long a run's rounds take over given networks, computed from its ledger without training."""

from fedlama.links.clock import Clock, clock
from fedlama.links.exchanges import Exchanges
from fedlama.links.link import Link
from fedlama.links.profiles import PROFILES, parse_link, parse_links
from fedlama.links.units import GIGABYTE, money, parse_rate, parse_seconds, show_rate, show_seconds

__all__ = [
    "GIGABYTE",
    "PROFILES",
    "Clock",
    "Exchanges",
    "Link",
    "clock",
    "money",
    "parse_link",
    "parse_links",
    "parse_rate",
    "parse_seconds",
    "show_rate",
    "show_seconds",
]
