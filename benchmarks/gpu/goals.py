"""The goals that the project has set itself for one H100 or H200, computed from the rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.setting import Values

RATE = "samples_per_second"


@dataclass(frozen=True)
class Goal:
    """A number that is to be reached.

    Attributes:
        words: What is compared.
        row: The row that is measured.
        goal: What is to be reached: at least, or at most where `most` is set.
        other: The row that `row` is divided by; None for a number of the row itself.
        value: Which of the row's numbers.
        most: Whether the goal is an upper bound.
    """

    words: str
    row: str
    goal: float
    other: str | None = None
    value: str = RATE
    most: bool = False

    def reached(self, rows: dict[str, Values]) -> float | None:
        """Return what was reached; None where a row is missing or failed."""
        over, under = rows.get(self.row, {}).get(self.value), rows.get(self.other or "", {}).get(self.value)
        if over is None or (self.other is not None and under is None):
            return None
        return float(over) / float(under) if under is not None else float(over)

    def line(self, rows: dict[str, Values]) -> str:
        """Return a line of the table.

        >>> Goal("TF32, of eager", "a", 0.5, "b").line({"a": {RATE: 3.0}, "b": {RATE: 4.0}})
        '| TF32, of eager | 0.75 | >= 0.5 | met |'
        """
        reached = self.reached(rows)
        goal = f"{'<=' if self.most else '>='} {self.goal:g}"
        if reached is None:
            return f"| {self.words} | not measured | {goal} | |"
        met = reached <= self.goal if self.most else reached >= self.goal
        return f"| {self.words} | {reached:.3g} | {goal} | {'met' if met else 'MISSED'} |"


_OURS = "resnet20/recorded/bfloat16"

GOALS = (
    Goal("ResNet-20, 128 clients, bfloat16: of central, eager", _OURS, 0.85, "central/bfloat16"),
    Goal("the same: of central, torch-compiled", _OURS, 0.5, "central/bfloat16/compiled"),
    Goal("torch-compiled steps: of central, torch-compiled", f"{_OURS}/compiled", 0.5, "central/bfloat16/compiled"),
    Goal("TF32: of central, eager", "resnet20/recorded/tf32", 0.55, "central/tf32"),
    Goal("times loop (TF32)", _OURS, 18, "resnet20/loop/tf32"),
    Goal("first round, seconds", _OURS, 20, value="first_seconds", most=True),
    Goal("first round with torch-compiled steps, seconds", f"{_OURS}/compiled", 60, value="first_seconds", most=True),
    Goal("unequal clients, bfloat16: of equal ones", "unequal/skewed/bfloat16", 0.7, "unequal/equal/bfloat16"),
    Goal("unequal clients, TF32: of equal ones", "unequal/skewed/tf32", 0.7, "unequal/equal/tf32"),
    Goal("10,000 clients: growth after round 2, MiB", "resident/recorded/bfloat16", 1, value="growth_mib", most=True),
    Goal("synchronisation: of a copy", "synchronisation/wrn-28-10", 0.7, value="of_copy"),
    Goal("float32 bits repeat, recorded", "repeat/recorded", 1, value="deterministic_repeats"),
    Goal("float32 bits repeat, stacked", "repeat/stacked", 1, value="deterministic_repeats"),
)


def row_line(name: str, row: Values) -> str:
    """Return a row's line of the table.

    >>> row_line("a", {RATE: 1234.5, "first_seconds": 2.0, "peak_mib": 10.0})
    '| a | 1,234 | 2.0 | 10 |  |'
    """
    if "error" in row:
        return f"| {name} | | | | {row['error'].strip().splitlines()[-1][:160]} |"
    rate = f"{row[RATE]:,.0f}" if RATE in row else ""
    first = f"{row['first_seconds']:.1f}" if "first_seconds" in row else ""
    peak = f"{row['peak_mib']:,.0f}" if "peak_mib" in row else ""
    others = {"of_copy": ".2f", "copy_gb_per_second": ",.0f", "growth_mib": ".1f", "deterministic_repeats": ""}
    notes = [f"{key} {row[key]:{form}}" for key, form in others.items() if key in row]
    notes += [row["label"].split(",")[0]] if "label" in row else []
    notes += ["with a warning"] if row.get("warnings") else []
    return "| " + " | ".join([name, rate, first, peak, ", ".join(notes)]) + " |"
