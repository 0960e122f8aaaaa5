"""One self-contained HTML file about finished runs: it opens offline, makes no request, and can be printed."""

from fedlama.reporting.html.write import report_page, write_report

__all__ = ["report_page", "write_report"]
