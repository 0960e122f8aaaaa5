"""The report in a real Chromium: no errors, no requests, plots there, keyboard, phone and print."""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedlama.core.figures import COLOURS
from fedlama.reporting.html.write import write_report
from fedlama.runs.stored import load_run
from tests.report.browser import CHROMIUM, DRIVER, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
PLOTS = (
    "front-plot",
    "metric-plot",
    "synchronised-plot",
    "discrepancy-plot",
    "curves-plot",
    "bytes-plot",
    "links-plot",
)
OUTSIDE = """return [...document.querySelectorAll('svg.chart')].flatMap((chart) => {
    const box = chart.getBoundingClientRect();
    return [...chart.querySelectorAll('text')].filter((text) => {
        const b = text.getBoundingClientRect();
        return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
    }).map((text) => text.textContent);
});"""
TOUCHING = """return [...document.querySelectorAll('svg.chart')].flatMap((chart) => {
    const boxes = [...chart.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([text, a], k) => boxes.slice(k + 1).filter(([, b]) => a.left < b.right - 1
        && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4).map(([other]) => [text, other]));
});"""
ENDS = """const chart = document.querySelector('#metric-plot svg.chart');
const box = [...chart.querySelectorAll(':scope > line.axis')].at(-1).getBoundingClientRect();
const labels = [...chart.querySelectorAll(":scope > text[text-anchor='middle']:not(.label)")].map((text) => {
    const b = text.getBoundingClientRect();
    return (b.left + b.right) / 2;
});
return [box.left - labels[0], box.right - labels.at(-1)];"""
CHART = "document.querySelector('#{} svg.chart')"


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Browser(tmp_path_factory.mktemp("profile"), port) as browser:
        browser.open(report)
        yield browser


def choose(browser: Browser, plot: str, index: int, value: str) -> None:
    browser.run(
        f"const s = document.querySelectorAll('#{plot} select')[{index}]; s.value = {value!r};"
        "s.dispatchEvent(new Event('change'));"
    )


def test_it_loads_without_errors_and_requests(browser: Browser, report: Path) -> None:
    assert browser.run("return document.documentElement.dataset.ready") == "yes"
    assert [address for address in browser.requests() if not address.startswith("data:")] == [report.as_uri()]
    assert browser.log("browser") == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def test_every_plot_is_drawn(browser: Browser) -> None:
    for plot in PLOTS:
        assert browser.run(f"return document.getElementById('{plot}').dataset.drawn") == "yes", plot
        box = browser.run(f"const b = {CHART.format(plot)}.getBoundingClientRect(); return [b.width, b.height]")
        assert min(box) > 60, plot
        label = browser.run(f"return {CHART.format(plot)}.getAttribute('aria-label')")
        assert len(label) > 30, plot
    assert browser.run("return document.querySelectorAll('#metric-plot polygon').length") == 3  # intervals over seeds
    assert browser.run("return document.querySelectorAll('#metric-plot path.line').length") == 3
    assert browser.run("return document.querySelectorAll('#curves-plot polyline').length") == 2


def test_axes_can_be_chosen(browser: Browser) -> None:
    for axis in ("rounds", "steps", "seconds", "link 4g", "megabytes"):
        choose(browser, "metric-plot", 1, axis)
        assert browser.run("return document.querySelectorAll('#metric-plot path.line').length") == 3
    for what in ("testLoss", "trainLoss", "accuracy"):
        choose(browser, "metric-plot", 0, what)
        assert browser.run("return document.querySelectorAll('#metric-plot path.line').length") == 3
    choose(browser, "metric-plot", 2, "each")
    assert browser.run("return document.querySelectorAll('#metric-plot path.line').length") == 6
    choose(browser, "metric-plot", 2, "mean")
    for by in ("direction", "client", "layer"):
        choose(browser, "bytes-plot", 1, by)
        assert browser.run("return document.querySelectorAll('#bytes-plot rect.bar').length") >= 6
    choose(browser, "discrepancy-plot", 1, "interval")
    assert browser.run("return document.querySelectorAll('#discrepancy-plot path.line').length") == 4
    assert browser.log("browser") == []


def test_lines_can_be_switched_off(browser: Browser) -> None:
    browser.run("document.querySelector('#metric-plot .legend button').click()")
    assert browser.run("return document.querySelectorAll('#metric-plot path.line').length") == 2
    pressed = "return document.querySelector('#metric-plot .legend button').getAttribute('aria-pressed')"
    assert browser.run(pressed) == "false"
    browser.run("document.querySelector('#metric-plot .legend button').click()")
    assert browser.run(pressed) == "true"


def test_plots_are_read_by_keyboard(browser: Browser) -> None:
    read = "return document.querySelector('#{} .readout').textContent"
    browser.run(CHART.format("metric-plot") + ".focus()")
    browser.press("ArrowRight", "ArrowRight")
    second = browser.run(read.format("metric-plot"))
    assert "test accuracy (%)" in second
    assert "95 % interval" in second
    browser.press("ArrowDown")
    assert browser.run(read.format("metric-plot")).partition(":")[0] != second.partition(":")[0]
    browser.run(CHART.format("synchronised-plot") + ".focus()")
    browser.press("ArrowRight", "ArrowDown", "End")
    assert browser.run(read.format("synchronised-plot")).startswith("dense0.bias, round 8: every round, synchronised")
    browser.run("document.querySelector('#curves-plot input').focus()")
    before = browser.run(read.format("curves-plot"))
    browser.press("ArrowLeft")
    assert browser.run(read.format("curves-plot")) != before
    assert "after round 6" in browser.run("return document.querySelector('#curves-plot output').textContent")


def test_everything_that_can_be_used_can_be_focused_and_has_a_name(browser: Browser) -> None:
    nameless = browser.run(
        "return [...document.querySelectorAll('a, button, select, input, [tabindex]')].filter((one) => "
        "one.tabIndex < 0 || !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).length"
    )
    assert nameless == 0
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return [...document.querySelectorAll('svg[role=img]')].every((s) => s.ariaLabel)") is True


@pytest.mark.parametrize("pixels", [320, 390, 768, 1600])
def test_it_fits_any_width(browser: Browser, pixels: int) -> None:
    browser.width(pixels)
    assert browser.run("return document.scrollingElement.scrollWidth") <= pixels
    small = browser.run(
        "return [...document.querySelectorAll('svg.chart text:not(.small)')].filter((t) => "
        "t.getBoundingClientRect().height < 9).length"
    )
    assert small == 0
    browser.width(1200)


def test_no_label_is_cut_or_upon_another(browser: Browser) -> None:
    """On a phone, every label is inside of its figure, and the labels of an axis are apart."""
    browser.width(390)
    assert browser.run(OUTSIDE) == []
    assert browser.run(TOUCHING) == []
    browser.width(1200)


def test_axes_begin_and_end_with_a_label(browser: Browser) -> None:
    for axis in ("rounds", "steps", "megabytes"):
        choose(browser, "metric-plot", 1, axis)
        ends = browser.run(ENDS)
        assert all(abs(gap) < 8 for gap in ends), (axis, ends)


def test_methods_have_the_colours_of_the_pictures(browser: Browser) -> None:
    choose(browser, "metric-plot", 2, "mean")
    strokes = "return [...document.querySelectorAll('#{} path.line')].map((p) => p.getAttribute('stroke'))"
    assert browser.run(strokes.format("metric-plot")) == list(COLOURS[:3])
    assert set(browser.run(strokes.format("discrepancy-plot"))) == {COLOURS[1]}  # FedLAMA
    discs = "return [...document.querySelectorAll('#front-plot circle[r=\"8\"]')].map((c) => c.getAttribute('fill'))"
    assert browser.run(discs) == list(COLOURS[:3])


def test_each_layer_has_a_panel_that_is_read_by_keyboard(browser: Browser) -> None:
    choose(browser, "discrepancy-plot", 1, "discrepancy")
    assert browser.run("return document.querySelectorAll('#discrepancy-plot path.line').length") == 4
    browser.run(CHART.format("discrepancy-plot") + ".focus()")
    browser.press("ArrowRight", "ArrowRight", "ArrowDown")
    read = browser.run("return document.querySelector('#discrepancy-plot .readout').textContent")
    assert read.startswith("dense1.weight, round 2: unit discrepancy d ")


def downloaded(browser: Browser, labels: list[str], folder: Path) -> list[Path]:
    """Press the buttons with these labels and return the files; Chromium holds back more than ten at a time."""
    browser.download_to(folder)
    files: list[Path] = []
    for label in labels:
        browser.run(
            f"[...document.querySelectorAll('.save button')].find((one) => one.ariaLabel === {label!r}).click()"
        )
        for _ in range(200):
            new = [file for file in folder.iterdir() if file not in files and file.suffix in (".svg", ".csv")]
            if new:
                break
            time.sleep(0.05)
        files += new
    return files


def labels_of_buttons(browser: Browser, words: str) -> list[str]:
    labels: list[str] = browser.run(
        "return [...document.querySelectorAll('.save button')].map((one) => one.getAttribute('aria-label'))"
    )
    assert len(set(labels)) == len(labels)
    return [label for label in labels if label.startswith(words)]


def test_figures_are_downloaded_as_svg(browser: Browser, tmp_path: Path) -> None:
    labels = labels_of_buttons(browser, "Download SVG")
    assert len(labels) == len(PLOTS)
    files = downloaded(browser, labels, tmp_path)
    assert len(files) == len(PLOTS)
    for file in files:
        picture = ElementTree.parse(file).getroot()
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(picture.attrib["width"]) > 300
    text = (tmp_path / "metrics-and-loss.svg").read_text(encoding="utf-8")
    for part in ("Metrics and loss", "FedLUAR(3, 1), 2 seeds", "MB up and down", ".chart text", *COLOURS[:3]):
        assert part in text, part
    browser.open(tmp_path / "metrics-and-loss.svg")
    assert browser.run("return document.documentElement.getBoundingClientRect().height") > 300
    assert browser.log("browser") == []


def test_tables_are_downloaded_as_csv(browser: Browser, report: Path, runs: list[Path], tmp_path: Path) -> None:
    browser.open(report)
    labels = labels_of_buttons(browser, "Download CSV")
    assert len(labels) == browser.run("return document.querySelectorAll('main table').length")
    files = downloaded(browser, [f"Download CSV: {name}" for name in ("Summary", "layers", "The links")], tmp_path)
    assert [file.name for file in files] == ["summary.csv", "layers.csv", "the-links.csv"]
    rows = {file.stem: list(csv.reader(file.read_text(encoding="utf-8").splitlines())) for file in files}
    stored = [load_run(path) for path in runs]
    summary = rows["summary"]
    assert summary[0][0] == "run"
    assert [float(row[summary[0].index("MB up")]) for row in summary[1:]] == [
        pytest.approx(run.ledger.total_bytes("up") / 1e6, abs=0.005) for run in stored
    ]
    layers = rows["layers"]  # numbers without the commas that the page shows
    assert layers[1][:3] == ["FedAvg(3) seed 0", "dense0.weight", "8192"]
    assert all(len(row) == len(table[0]) for table in rows.values() for row in table if table[0])


def test_an_outlier_is_at_the_edge_until_it_is_asked_for(
    browser: Browser, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedlama.reporting.html.looks.limits", lambda *_: (70.0, 80.0))
    browser.open(write_report(runs, tmp_path / "report.html"))
    triangles = "return document.querySelectorAll('#metric-plot path.beyond').length"
    assert browser.run(triangles) > 0
    note = browser.run("return document.querySelector('#metric-plot .note').textContent")
    assert "Triangles stand for values" in note
    choose(browser, "metric-plot", 4, "all")
    assert browser.run(triangles) == 0
    assert browser.log("browser") == []


def test_on_paper_nothing_is_there_to_be_clicked(browser: Browser, report: Path) -> None:
    browser.open(report)
    shown = (
        "return [...document.querySelectorAll('nav, .save, details, .plot .readout')].filter((one) => one.offsetParent)"
    )
    assert browser.run(f"{shown}.length") > 10
    browser.media("print")
    assert browser.run(f"{shown}.map((each) => each.outerHTML.slice(0, 80))") == []
    assert browser.run("return document.querySelectorAll('main table, svg.chart').length") > 5
    browser.media("screen")


def test_it_prints(browser: Browser) -> None:
    pages = browser.pdf()
    assert pages.startswith(b"%PDF")
    assert len(pages) > 20_000
