"""All methods on two data sets, accuracy against megabytes, and how FedLAMA combines with other methods.

    python -m benchmarks.methods methods.json --mnist FOLDER --writers FOLDER --fashion FOLDER
    python -m benchmarks.methods methods.json --show --figure methods.png

Three seeds, with the settings of :mod:`benchmarks.methods_list`, chosen beforehand and not tuned. A run that the file
holds already is not repeated, and the file is written after each run, seed after seed, so the command can be stopped
and started again. A method that is refused in a setting, or diverges, is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods_list import BASES, COMBINED, EXPENSIVE, METHODS, SETTINGS
from fedlama.errors import FedlamaError
from fedlama.experiment import assemble, prepare, read, resolve

Row = dict[str, Any]
SEEDS = (0, 1, 2)
FIGURE_RANGE = {"writers": (70.0, 98.0), "fashion": (60.0, 84.0)}
"""Accuracies that the figure shows, in percent."""


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("output", type=Path, help="file of the results")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's idx files")
    parser.add_argument("--writers", type=Path, help="folder of QMNIST's tables")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--only", default="", help="run only methods whose title contains this")
    parser.add_argument("--show", action="store_true", help="print the tables of what has been run")
    parser.add_argument("--figure", type=Path, help="draw accuracy against megabytes")
    given = parser.parse_args()
    rows: list[Row] = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.show or given.figure:
        if given.show:
            print("\n\n".join([all_methods(rows), combinations(rows)]))
        if given.figure:
            draw(rows, given.figure)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of losses that rise, which the table shows
    data = {
        "writers": [f"data.path={given.mnist}", f"data.table={given.writers}"],
        "fashion": [f"data.path={given.fashion}"],
    }
    methods = METHODS | COMBINED
    for part in (methods.keys() - EXPENSIVE, EXPENSIVE):
        for seed in SEEDS:
            for setting, lines in SETTINGS.items():
                chosen = {name: more for name, more in methods.items() if name in part and given.only in name}
                if setting != "fashion":
                    chosen = {name: more for name, more in chosen.items() if name in METHODS}
                run_setting(given.output, rows, setting, [*lines, *data[setting], f"seed={seed}"], chosen)


def run_setting(
    output: Path, rows: list[Row], setting: str, lines: Sequence[str], methods: Mapping[str, Sequence[str]]
) -> None:
    """Run what is missing of one data set and seed, and write the file after each run."""
    seed = int(lines[-1].partition("=")[2])
    done = {(row["setting"], row["method"], row["seed"]) for row in rows}
    missing = {name: more for name, more in methods.items() if (setting, name, seed) not in done}
    if not missing:
        return
    material = prepare(resolve(read("digits", [*lines, "strategy.name=fedavg"])))
    for name, more in missing.items():
        start = time.perf_counter()
        row: Row = {"setting": setting, "method": name, "seed": seed}
        try:
            result = assemble(resolve(read("digits", [*lines, *filled(lines, more)])), material).run()
            row |= {
                "accuracy": 100 * result.score.accuracy if result.score else None,
                "up": result.ledger.total_bytes("up") / 1e6,
                "down": result.ledger.total_bytes("down") / 1e6,
                "cost": result.cost_percent,
                "epsilon": result.figures.get("epsilon"),
            }
        except FedlamaError as error:
            row["failed"] = str(error)
        rows.append(row | {"seconds": time.perf_counter() - start})
        output.write_text(json.dumps(rows, indent=0))
        print(setting, seed, name, row.get("failed") or f"{row['accuracy']:.2f}", flush=True)


def filled(lines: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return a method's changes in a setting.

    >>> filled(["strategy.base_interval=5"], ["strategy.base_interval={interval}", "codec.feedback={feedback}"])
    ['strategy.base_interval=20', 'codec.feedback=true']
    """
    base = next(int(line.partition("=")[2]) for line in lines if line.startswith("strategy.base_interval="))
    feedback = "false" if any(line.startswith("sampler.") for line in [*lines, *more]) else "true"
    return [line.replace("{interval}", str(4 * base)).replace("{feedback}", feedback) for line in more]


def all_methods(rows: Sequence[Row]) -> str:
    """Return the table of all methods, one column group for each data set."""
    lines = [
        "| | method | MNIST by writer, % | MB up + down | Fashion-MNIST, % | MB up + down |",
        "|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(METHODS, 1):
        cells = [cell for setting in SETTINGS for cell in (_accuracy(rows, setting, name), _bytes(rows, setting, name))]
        lines.append(f"| {number} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def combinations(rows: Sequence[Row]) -> str:
    """Return the table of FedLAMA and 4 bits, each with other methods, on Fashion-MNIST."""
    columns = {"FedAvg": "", "FedLAMA": ", FedLAMA", "4 bits": ", 4 bits", "both": ", FedLAMA, 4 bits"}
    titles = {"SGD": "FedAvg"} | {name: name for name in BASES}
    plain = {"": "FedAvg", ", FedLAMA": "FedLAMA", ", 4 bits": "4 bits", ", FedLAMA, 4 bits": "FedLAMA, 4 bits"}
    lines = [f"| with | {' | '.join(columns)} |", "|---" * 5 + "|"]
    for title, name in titles.items():
        names = [plain[more] if name == "FedAvg" else name + more for more in columns.values()]
        cells = [
            _accuracy(rows, "fashion", each)
            + ("" if (megabytes := _bytes(rows, "fashion", each)) == "-" else f"; {megabytes} MB")
            for each in names
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the mean accuracy of each method against its megabytes, one panel for each data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    titles = {"writers": "MNIST by writer, 10 of 539 clients", "fashion": "Fashion-MNIST, Dirichlet 0.1, 20 clients"}
    for axes, (setting, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        points = [
            (statistics.fmean(row["up"] + row["down"] for row in runs), _mean(runs), number, "FedLAMA" in name)
            for number, name in enumerate(METHODS, 1)
            if (runs := list(_finished(rows, setting, name))) and not _failures(rows, setting, name)
        ]
        axes.set(
            title=title, xlabel="MB up and down", ylabel="test accuracy, %", xscale="log", ylim=FIGURE_RANGE[setting]
        )
        axes.set_xticks(ticks := [20, 50, 100, 200, 500], [str(tick) for tick in ticks])
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.margins(x=0.08)
        _plot(axes, points, FIGURE_RANGE[setting])
        axes.grid(alpha=0.3)
    figure.text(
        0.5, -0.01, "numbers: rows of the table; a triangle is below the axis", ha="center", va="top", fontsize=8
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _plot(axes: Any, points: Sequence[tuple[float, float, int, bool]], limits: tuple[float, float]) -> None:  # noqa: ANN401
    """Plot points with numbers that do not cover each other.

    Args:
        axes: Matplotlib's axes.
        points: Megabytes, accuracy, number of the row, and whether to show it in red.
        limits: The range of the accuracy axis.
    """
    gap, taken = (limits[1] - limits[0]) / 40, dict[int, float]()
    for megabytes, accuracy, number, red in sorted(points, key=lambda point: point[1]):
        shown, color = max(accuracy, limits[0] + gap), "tab:red" if red else "tab:blue"
        axes.plot(megabytes, shown, "o" if accuracy == shown else "v", markersize=4, color=color)
        column = round(20 * math.log10(megabytes))
        height = max(shown, max(taken.get(near, -math.inf) for near in (column - 1, column, column + 1)) + gap)
        taken[column] = height
        line = {"arrowstyle": "-", "linewidth": 0.3, "color": "gray"}
        axes.annotate(
            str(number), (megabytes, shown), (megabytes * 1.07, height), fontsize=7, va="center", arrowprops=line
        )


def _finished(rows: Sequence[Row], setting: str, name: str) -> Iterator[Row]:
    for row in rows:
        if (row["setting"], row["method"]) == (setting, name) and "failed" not in row:
            yield row


def _failures(rows: Sequence[Row], setting: str, name: str) -> list[str]:
    return [row["failed"] for row in rows if (row["setting"], row["method"]) == (setting, name) and "failed" in row]


def _mean(rows: Sequence[Row]) -> float:
    return statistics.fmean(row["accuracy"] for row in rows)


def _accuracy(rows: Sequence[Row], setting: str, name: str) -> str:
    """Return mean and standard deviation over the seeds, or that the method was refused or diverged."""
    runs, reasons = list(_finished(rows, setting, name)), _failures(rows, setting, name)
    if reasons:
        count = f" in {len(reasons)} of {len(reasons) + len(runs)}" if runs else ""
        return f"diverged{count}" if "is not finite" in reasons[0] else "refused"
    if not runs:
        return "-"
    spread = f" ± {statistics.stdev(row['accuracy'] for row in runs):.1f}" if len(runs) > 1 else ""
    return f"{_mean(runs):.1f}{spread}"


def _bytes(rows: Sequence[Row], setting: str, name: str) -> str:
    if _failures(rows, setting, name):
        return "-"
    runs = list(_finished(rows, setting, name))
    return f"{statistics.fmean(row['up'] + row['down'] for row in runs):.1f}" if runs else "-"


if __name__ == "__main__":
    main()
