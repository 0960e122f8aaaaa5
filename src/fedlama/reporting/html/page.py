"""The page: tables, which need no script, the data of the runs, and the script that draws the plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from types import MappingProxyType
from typing import Any

from fedlama.analysis.timing import Timing
from fedlama.core.measures import Measure
from fedlama.reporting.html.front import front, front_table
from fedlama.reporting.html.head import head
from fedlama.reporting.html.local_work import work_tables
from fedlama.reporting.html.looks import looks
from fedlama.reporting.html.seeds import seed_table
from fedlama.reporting.html.tables import (
    adjustment_table,
    attendance_table,
    byte_tables,
    client_table,
    config_table,
    layer_table,
    link_table,
    measures,
    metric_table,
    summary_table,
)

_PLOTS = ("lines.js", "metrics.js", "heat.js", "layers.js", "curves.js", "bars.js", "front.js")
_SCRIPTS = ("base.js", *_PLOTS, "save.js", "main.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_SECTIONS = (
    ("summary", "Summary"),
    ("front", "Loss against bytes"),
    ("metrics", "Metrics and loss"),
    ("synchronised", "When each layer was synchronised"),
    ("discrepancy", "Discrepancy and interval"),
    ("curves", "The cut-off of each adjustment"),
    ("bytes", "Bytes"),
    ("links", "Time on a link"),
    ("attendance", "Replies of the clients"),
    ("work", "Local work of the clients"),
    ("configuration", "Configuration"),
)


def page(
    title: str,
    runs: Sequence[dict[str, Any]],
    groups: Sequence[dict[str, Any]],
    timings: Sequence[Timing],
    diverged: Sequence[Mapping[str, Any]] = (),
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Put the page together.

    Args:
        title: Heading of the page.
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.
        groups: As :func:`fedlama.reporting.html.groups.groups` returns them.
        timings: The same runs, with their time on each link.
        diverged: The runs that diverged, as :func:`fedlama.runs.stored.diverged_beside` returns them.
        left_out: Run folders that are not on the page, each with the reason.

    Returns:
        The HTML. It refers to nothing outside itself, and its content security policy forbids requests.
    """
    ends = front(runs, diverged)
    content = {
        "summary": head(timings, left_out) + seed_table(timings) + summary_table(runs) + client_table(runs),
        "front": (_plot("front-plot") if ends["methods"] else "") + front_table(ends, diverged),
        "metrics": _plot("metric-plot") + _behind("metrics and loss", metric_table(runs)),
        "synchronised": _plot("synchronised-plot") + _behind("layers", layer_table(runs)),
        "discrepancy": _plot("discrepancy-plot"),
        "curves": _plot("curves-plot") + _behind("adjustments", adjustment_table(runs)),
        "bytes": _plot("bytes-plot") + _behind("bytes", byte_tables(runs)),
        "links": _plot("links-plot") + _behind("times", link_table(timings)),
        "attendance": attendance_table(runs),
        "work": work_tables(runs),
        "configuration": config_table(runs),
    }
    choices = [(name, f"test {name}{' (%)' if Measure(name, 'higher').is_percent else ''}") for name in measures(runs)]
    embedded = {"runs": runs, "groups": groups, "measures": choices, "front": ends, **looks(runs, timings)}
    sections = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heading}</h2>\n{content[name]}</section>'
        for name, heading in _SECTIONS
    )
    contents = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in _SECTIONS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('style.css')}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#summary">Skip to the results</a>\n'
        f"<header><h1>{escape(title)}</h1><p>{len(runs)} run{'s' if len(runs) > 1 else ''}; "
        "MB are 10<sup>6</sup> bytes, rates bits per second. "
        "The plots can be read with the keyboard: move to one with the tab key, then use the arrow keys.</p>"
        f'<nav aria-label="Sections"><ul>{contents}</ul></nav></header>\n<main>\n{sections}\n</main>\n'
        '<div id="live" role="status" aria-live="polite" class="hidden"></div>\n'
        f'<script type="application/json" id="data">{_embedded(embedded)}</script>\n'
        f"<script>\n'use strict';\n{''.join(map(_asset, _SCRIPTS))}</script>\n</body>\n</html>\n"
    )


def _plot(name: str) -> str:
    note = "<noscript><p>The plot needs JavaScript; the table has its values.</p></noscript>"
    return f'<div id="{name}" class="plot">{note}</div>\n'


def _behind(what: str, table: str) -> str:
    """Return a table that can be unfolded; it scrolls sideways, also by keyboard."""
    scrolled = f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {what}">{table}</div>'
    return f"<details><summary>Table: {what}</summary>{scrolled}</details>\n"


def _embedded(content: object) -> str:
    """Return JSON in which no text can end the script element."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _asset(name: str) -> str:
    return (resources.files("fedlama") / "reporting" / "html" / "assets" / name).read_text(encoding="utf-8")
