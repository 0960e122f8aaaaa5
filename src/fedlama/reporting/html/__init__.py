"""One self-contained HTML file that shows finished runs: opens offline, makes no request, prints, reads on a phone."""

from fedlama.reporting.html.write import report_page, write_report

__all__ = ["report_page", "write_report"]
