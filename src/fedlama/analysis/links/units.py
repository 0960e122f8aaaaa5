"""Units of rates and times: bits or bytes, prefixes of 1000 or of 1024; a rate without a clear unit is refused.

======================  ==========================================  =====================
written                 meaning                                     factor to bit/s
======================  ==========================================  =====================
bit/s kbit/s Mbit/s     bits per second, prefixes of 1000           1, 10^3, 10^6, 10^9
B/s kB/s MB/s GB/s      bytes per second, prefixes of 1000          8 times those
KiB/s MiB/s GiB/s       bytes per second, prefixes of 1024          8 * 1024^n
======================  ==========================================  =====================

Everything that fedlama prints in MB or GB means 10^6 or 10^9 bytes.
"""

from __future__ import annotations

import math
import re
from typing import Final

from fedlama.errors import ConfigError, shown

GIGABYTE: Final = 10**9

_BITS: Final = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_BYTES: Final = {"B/s": 8.0, "kB/s": 8e3, "MB/s": 8e6, "GB/s": 8e9}
_BINARY: Final = {"KiB/s": 8.0 * 2**10, "MiB/s": 8.0 * 2**20, "GiB/s": 8.0 * 2**30}
_RATES: Final = {**_BITS, **_BYTES, **_BINARY}
_TIMES: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_QUANTITY: Final = re.compile(r"([0-9.eE+-]+)\s*([A-Za-z/]*)")


def parse_rate(text: str) -> float:
    """Read a rate.

    Args:
        text: A number with its unit, such as ``"50 Mbit/s"`` or ``"6.25MB/s"``.

    Returns:
        Bits per second.

    Raises:
        ConfigError: No unit, or one that may mean bits or bytes.

    >>> parse_rate("50 Mbit/s") == parse_rate("6.25MB/s")
    True
    """
    return _parse(text, _RATES, "a rate", "5 Mbit/s (bits, 10^6) or 5 MB/s (bytes, 10^6) or 5 MiB/s (bytes, 2^20)")


def parse_seconds(text: str) -> float:
    """Read a time.

    Args:
        text: A number with its unit, such as ``"30ms"`` or ``"1.5 s"``.

    Returns:
        Seconds.

    >>> parse_seconds("30ms")
    0.03
    """
    return _parse(text, _TIMES, "a time", "30 ms or 1.5 s")


def show_rate(bits: float) -> str:
    """Return a rate in bits per second with a prefix of 1000.

    >>> show_rate(5470.0)
    '5.47 kbit/s'
    """
    for unit in ("Gbit/s", "Mbit/s", "kbit/s"):
        if bits >= _BITS[unit]:
            return f"{bits / _BITS[unit]:.3g} {unit}"
    return f"{bits:.3g} bit/s"


def show_seconds(seconds: float) -> str:
    """Return a time in the unit that suits its size.

    >>> [show_seconds(time) for time in (0.25, 75, 5400, 200000)]
    ['250 ms', '1.2 min', '1.5 h', '2.3 d']
    """
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def money(number_of_bytes: int, price_per_gb: float) -> float:
    """Return the price of bytes.

    Args:
        number_of_bytes: Bytes.
        price_per_gb: Price of a gigabyte of 10^9 bytes, in any currency.

    >>> money(2_500_000_000, price_per_gb=0.08)
    0.2
    """
    return number_of_bytes / GIGABYTE * price_per_gb


def _parse(text: str, units: dict[str, float], kind: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ConfigError(f"{shown(text)} is not {kind} with its unit ({', '.join(units)}); write it as {example}")
    try:
        value = float(match[1]) * units[match[2]]
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{shown(text)} is not {kind}: the number must be finite and not negative; such as {example}")
    return value
