"""Time on a link: how long a run's rounds take over given networks, computed from its ledger without training."""

from fedlama.analysis.links.clock import Clock, clock
from fedlama.analysis.links.exchanges import Exchanges
from fedlama.analysis.links.link import Link
from fedlama.analysis.links.profiles import PROFILES, parse_link, parse_links
from fedlama.analysis.links.units import GIGABYTE, money, parse_rate, parse_seconds, show_rate, show_seconds

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
