"""The report in a real Chromium: no errors, no requests, plots there, keyboard, phone and print."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_it_prints(browser: Browser) -> None:
    pages = browser.pdf()
    assert pages.startswith(b"%PDF")
    assert len(pages) > 20_000
