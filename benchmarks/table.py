"""The result of a run as a Markdown table."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Return client-steps per second, and in brackets the rate of `auto` divided by the rate of the side.

    >>> print(markdown({"medians": {"W3": {"ours:auto": 200.0, "naive": 10.0}}}))
    | workload | ours:auto | naive |
    |---|---|---|
    | W3 | 200 | 10 (x 20) |
    """
    medians: dict[str, dict[str, float]] = report["medians"]
    sides = list(dict.fromkeys(side for rates in medians.values() for side in rates))
    lines = ["| workload | " + " | ".join(sides) + " |", "|---" * (len(sides) + 1) + "|"]
    for name, rates in medians.items():
        cells = [_cell(rates, side) for side in sides]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rates: dict[str, float], side: str) -> str:
    if side not in rates:
        return "not measured"
    rate = (f"{rates[side]:,.0f}" if rates[side] >= 100 else f"{rates[side]:.2f}").removesuffix(".00")
    if side == "ours:auto" or "ours:auto" not in rates:
        return rate
    times = rates["ours:auto"] / rates[side]
    return f"{rate} (x {times:.2f})" if times < 10 else f"{rate} (x {times:.0f})"
