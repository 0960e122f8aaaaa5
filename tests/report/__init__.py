"""The HTML report: its content, and the page in a real browser."""
