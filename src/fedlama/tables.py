"""The tables that the command line prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.callbacks import MEGABYTE
from fedlama.comparison import Finished
from fedlama.forecast import Volume
from fedlama.layers import total_parameters
from fedlama.preview import Preview


def comparison(finished: Sequence[Finished]) -> list[Table | str]:
    """Return accuracy, cost, bytes and time per method (MB are 10^6 bytes), and the run folders."""
    table = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD)
    for heading in ("acc %", "loss", "C %", "MB up", "MB down", "rounds", "sec"):
        table.add_column(heading, justify="right")
    for one in finished:
        score, ledger = one.result.score, one.result.ledger
        table.add_row(
            one.title,
            f"{100 * score.accuracy:.2f}" if score else "-",
            f"{score.loss:.4f}" if score else "-",
            f"{one.summary['cost_percent']:.2f}",
            f"{ledger.total_bytes('up') / MEGABYTE:.2f}",
            f"{ledger.total_bytes('down') / MEGABYTE:.2f}",
            str(len(one.result.rounds)),
            f"{one.result.seconds:.1f}",
        )
    return [table, *(f"{one.title}: {one.summary['run_folder']}" for one in finished)]


def preview(seen: Preview) -> list[Table | str]:
    """Return what a comparison will move: the layers, and the methods."""
    layers = Table("layer", box=SIMPLE_HEAD, title=f"{seen.model}: {total_parameters(seen.layers):,} parameters")
    for heading in ("parameters", "share %", "payload bytes"):
        layers.add_column(heading, justify="right")
    layers.add_column("may adapt")
    total = total_parameters(seen.layers)
    for layer in seen.layers:
        share = f"{100 * layer.parameters / total:.1f}"
        adapts = "yes" if layer.adaptive else "no"
        layers.add_row(layer.name, f"{layer.parameters:,}", share, f"{seen.payloads[layer.name]:,}", adapts)
    heading = f"{seen.active} of {seen.population} clients active; MB are 10^6 bytes"
    methods = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD, title=heading)
    for heading in ("rounds", "MB up", "MB down", "MB a round", "C %"):
        methods.add_column(heading, justify="right")
    for name, one in seen.forecasts.items():
        low, high, rounds = one.low, one.high, one.rounds
        methods.add_row(
            name,
            str(rounds),
            _range(low.bytes_up / MEGABYTE, high.bytes_up / MEGABYTE),
            _range(low.bytes_down / MEGABYTE, high.bytes_down / MEGABYTE),
            _range(_both(low) / MEGABYTE / rounds, _both(high) / MEGABYTE / rounds),
            _range(low.cost_percent, high.cost_percent),
        )
    return [layers, methods]


def _both(volume: Volume) -> int:
    return volume.bytes_up + volume.bytes_down


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if low == high else f"{low:.2f} to\n{high:.2f}"
